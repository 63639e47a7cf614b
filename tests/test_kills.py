# SPDX-License-Identifier: Apache-2.0
"""A sample of `make kills`: nothing is lost when programs are killed, on slow and on full disks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_killed_programs_leave_whole_files_and_resume_to_the_same_result():
    command = [sys.executable, str(ROOT / "tests" / "kills.py"), "--kills", "12", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["training"]["kills"] >= 6 and report["folder"]["kills"] >= 6
