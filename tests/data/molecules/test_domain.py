"""How alike molecules are to those a model knows: RDKit's own numbers for public data, groups for any other."""

import numpy as np
import pytest
from made_molecules import molecules

from medserve.data.molecules.describe import fingerprint, morgan
from medserve.data.molecules.domain import LEAST, SHARED, Known, gather
from medserve.data.molecules.standard import chemistry
from medserve.errors import BadPackage


def bits_of(smiles):
    made = morgan()
    return np.stack([made.GetFingerprintAsNumPy(chemistry().MolFromSmiles(s)) > 0 for s in smiles])


@pytest.fixture(scope="module")
def some():
    return [s for s, _ in molecules(150)]


def test_similarity_is_tanimoto(some):
    """The same as RDKit's, for a molecule that is there and for those that are not; also after being stored."""
    from rdkit import DataStructs

    known = Known.of(gather(bits_of(some[:100]), public=True).arrays())
    asked = [some[7], *some[100:120]]
    found, at = known.similarity(bits_of(asked))
    prints = [fingerprint(s) for s in some[:100]]
    for one, value, place in zip(asked, found, at, strict=True):
        wanted = DataStructs.BulkTanimotoSimilarity(fingerprint(one), prints)
        assert value == pytest.approx(max(wanted)) and wanted[place] == pytest.approx(max(wanted))
    assert found[0] == 1.0


def test_of_other_data_only_groups_are_kept(some):
    """Every group has ten molecules or more; a fragment of one or two of them is not to be seen."""
    bits = bits_of(some)
    known = gather(bits, public=False)
    assert 1 < known.profiles.shape[1] <= len(some) / LEAST and not len(known.rows)
    lone = bits.sum(0) < SHARED
    assert lone.any() and not known.profiles[lone].any()
    again = Known.of(known.arrays())
    like, unlike = again.similarity(bits)[0].mean(), again.similarity(bits_of(["FC(F)(F)C(F)(F)F", "OB(O)O"]))[0].max()
    assert like > 2 * unlike


def test_too_few_for_a_group_are_not_kept(some):
    """Nine molecules say too much of each."""
    assert gather(bits_of(some[: LEAST - 1]), public=False) is None


def test_altered_arrays_are_refused(some):
    """Shapes and types that `arrays` never gives."""
    good = gather(bits_of(some[:20]), public=True).arrays()
    for bad in ({}, {"bits": good["bits"]}, good | {"rows": good["rows"][:3]}, {"profiles": np.zeros((5, 3), np.uint8)},
                {"profiles": np.zeros((2048, 0), np.uint8)}):  # fmt: skip
        with pytest.raises(BadPackage):
            Known.of(bad)
