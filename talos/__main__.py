"""`python -m talos`: the same as the `talos` command."""

from __future__ import annotations

import sys

from talos.cli.main import main

sys.exit(main())
