"""MONAI without what it can do without.

`import monai` imports every module of MONAI, and some of those import further packages where they are installed, for
networks and pictures that nothing here uses: seconds at the start of every command that builds a network.
"""

import importlib
import sys

# MONAI holds them optional: an import that fails leaves a stand-in that says so when it is used.
UNUSED = ("transformers", "matplotlib", "tensorboard")


def import_monai() -> None:
    """Imports MONAI without its optional packages; these can be imported as ever afterwards.

    Does nothing where MONAI is imported already. Packages that are imported already are left to it.
    """
    if "monai" in sys.modules:
        return
    hidden = [name for name in UNUSED if name not in sys.modules]
    # What sys.modules maps to None cannot be imported: the documented way to block an import.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        importlib.import_module("monai")
    finally:
        for name in hidden:
            del sys.modules[name]
