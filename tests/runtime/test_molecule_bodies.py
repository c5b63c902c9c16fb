"""A raw body or a file that is one molecule, whatever its form; of several none is picked in silence."""

from types import SimpleNamespace

import pytest

from medserve.errors import Refusal
from medserve.runtime.inputs import SDF, SMILES, raw_inputs

SPEC = SimpleNamespace(inputs=[SimpleNamespace(name="smiles", kind="molecule")])
MOL2 = "@<TRIPOS>MOLECULE\nm\n 1 0 0 0 0\nSMALL\nNO_CHARGES\n\n@<TRIPOS>ATOM\n1 C1 0.0 0.0 0.0 C.3 1 L 0.0\n"
MOL = "m\n  made\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n    0.0000    0.0000    0.0000 C   0  0\nM  END\n"


def told(body: str, **how: str) -> str:
    return raw_inputs(SPEC, body.encode(), **how)["smiles"]


def test_a_smiles_file_holds_a_name_behind_the_smiles():
    """By its media type, and by the name of a file at the command line."""
    assert told("CCO ethanol, pure\n", media=SMILES) == told("CCO ethanol, pure\n", name="a.smi") == "CCO"
    assert told("CCO\n", name="a.txt").strip() == "CCO"


def test_one_molecule_of_each_form_is_taken_whole():
    assert told(MOL2) == MOL2 and told(MOL, media=SDF).startswith("m\n") and "M  END" in told(MOL + "$$$$\n")


@pytest.mark.parametrize("body", [MOL2 * 2, MOL + "$$$$\n" + MOL + "$$$$\n", "CCO\nCCN\n"])
def test_several_molecules_are_refused(body):
    with pytest.raises(Refusal) as error:
        told(body)
    assert error.value.code == "several-molecules"
