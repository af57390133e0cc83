"""Turn a folder of GRID clips and its sentence table into a manifest.

    python examples/grid/make_manifest.py GRID_FOLDER manifest.jsonl

GRID_FOLDER holds clips.csv (columns clip, sentence, color, digit, ..., split) and clips/NAME.mp4. This is all
that your own data needs, too: one JSON object a clip, with its id, video, text, label and split. Paths are
relative to the folder that `harmonize extract --root` names.
"""

import csv
import json
import sys
from pathlib import Path


def main(grid: Path, manifest: Path) -> None:
    """Write one line per clip; the digit is the label, the test part is the table's own."""
    with (
        (grid / "clips.csv").open(newline="", encoding="utf-8") as table,
        manifest.open("w", encoding="utf-8") as out,
    ):
        for row in csv.DictReader(table):
            clip = {
                "id": row["clip"],
                "video": f"clips/{row['clip']}.mp4",
                "text": row["sentence"],
                "labels": [f"digit:{row['digit']}", f"colour:{row['color']}"],
                "split": row["split"],
                "group": row["clip"],
            }
            out.write(json.dumps(clip) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
