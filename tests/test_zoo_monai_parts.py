"""MONAI comes without packages that nothing here uses, and these can be imported afterwards as ever."""

import subprocess
import sys

PROGRAM = """
import sys
from ccella.zoo.family import load_family
load_family("ccella")
loaded = set(sys.modules)
assert "monai.networks.nets" in loaded
print(*({"transformers.models.bert.modeling_bert", "matplotlib", "tensorboard"} & loaded))
import matplotlib
from transformers import AutoTokenizer
from torch.utils.tensorboard import SummaryWriter
from accelerate.utils import is_transformers_available
print(is_transformers_available())
"""


def test_networks_come_without_them_and_they_come_later():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "True"]
