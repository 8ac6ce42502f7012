"""Members on one machine, joined by links of a set rate: network namespaces shaped with tc.

Start with `lab.py`; the picture and the options are in docs/lab.md.
"""

from stellatrain.lab.errors import LabError
from stellatrain.lab.lab import Lab
from stellatrain.lab.links import LinkUse
from stellatrain.lab.topology import Member

__all__ = ["Lab", "LabError", "LinkUse", "Member"]
