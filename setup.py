"""Package data that setup.cfg cannot state: packages found by walking, and one that lives elsewhere in the tree."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["zh_embedder*", "data_tools*"]), "zh_embedder._instructions"],
    # The YAML files are at the top of the repository, where people edit them, and inside the package when installed.
    package_dir={"zh_embedder._instructions": "instructions"},
)
