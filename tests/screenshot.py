"""A picture of a report, for the README: python -m tests.screenshot report.html docs/report.png [--dark] ..."""

import argparse
import base64
import sys
import time
from pathlib import Path

from tests.browser import browser, missing


def take(page, out, *, width=1280, height=900, dark=False, language="en", full=False, click=(), scale=1.0):
    """Open a page, click some elements, and write what is seen."""
    with browser(width=width, height=height, dark=dark, language=language) as driver:
        driver.get(Path(page).resolve().as_uri())
        time.sleep(1.5)  # charts are drawn in the frames that follow
        for selector in click:
            driver.execute_script("document.querySelector(arguments[0]).click()", selector)
            time.sleep(0.3)
        if full:
            height = driver.execute_script("return document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": scale}
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        Path(out).write_bytes(base64.b64decode(shot["data"]))
        return [entry["message"] for entry in driver.get_log("browser")]


def main():
    """Read the command line and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page")
    parser.add_argument("out")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--language", default="en", choices=["en", "zh"])
    parser.add_argument("--full", action="store_true", help="the whole page, not only its first screen")
    parser.add_argument("--click", nargs="*", default=[], help="selectors to click first")
    parser.add_argument("--scale", type=float, default=1.0, help="2 for a picture of twice the pixels")
    if reason := missing():
        sys.exit(reason)
    messages = take(**vars(parser.parse_args()))
    sys.stdout.write("".join(f"{message}\n" for message in messages))


if __name__ == "__main__":
    main()
