"""A headless Chromium, where one is installed: for tests that click, and for screenshots."""

import shutil
from contextlib import contextmanager

BINARIES = ("chromium", "chromium-browser", "google-chrome")


def missing():
    """Say what is missing to drive a browser, or None."""
    if not any(shutil.which(name) for name in BINARIES):
        return "no Chromium here: apt-get install chromium chromium-driver"
    if not shutil.which("chromedriver"):
        return "no chromedriver here: apt-get install chromium-driver"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: pip install -c constraints.txt selenium"
    return None


@contextmanager
def browser(*, width=1280, height=900, dark=False, language="en"):
    """Start a browser of its own profile that logs its console and its network, and quit it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(path for name in BINARIES if (path := shutil.which(name)))
    # No sandbox: tests run as root in containers. /dev/shm is small there.
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={width},{height}")
    options.add_argument(f"--lang={language}")
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        # The viewport itself: a headless window's frame differs between versions, and has a least width.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # what scrolls smoothly cannot be clicked
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        yield driver
    finally:
        driver.quit()
