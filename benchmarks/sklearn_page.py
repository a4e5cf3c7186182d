"""The script of docs/sklearn.md, run as it stands: what it prints, and how long it took.

python benchmarks/sklearn_page.py --out benchmarks/results/sklearn-digits.json
"""

import argparse
import io
import json
import re
import time
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path

from twoviews.compute import available_cores, cpu_name

PAGE = Path(__file__).parents[1] / "docs" / "sklearn.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    o = parser.parse_args()
    script = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    printed, began = io.StringIO(), time.monotonic()
    with redirect_stdout(printed):
        exec(compile(script, PAGE.name, "exec"), {"__name__": "page"})
    result = {
        "printed": printed.getvalue().splitlines(),
        "seconds": round(time.monotonic() - began, 1),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "versions": {name: version(name) for name in ("twoviews", "torch", "scikit-learn", "numpy")},
    }
    Path(o.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
