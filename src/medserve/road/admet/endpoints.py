"""What the panel answers: 11 properties of the structure and 41 outputs of ADMET-AI's models.

    ENDPOINTS[0]                    # Endpoint("molecular_weight", "Molecular weight", ...)
    clamp(endpoint, 107.8)          # (100.0, "above-range") for a percentage

Bounds are those of the quantity itself, not of any data: a share of bound drug ends at 100 %, a volume begins at 0. A
value beyond them is cut and says so, since a regression knows nothing of them.
Sources: names and units from the table of admet-ai 2.0.1 (MIT), after the data sets of Therapeutics Data Commons.
"""

from dataclasses import dataclass

PROPERTIES, ABSORPTION, DISTRIBUTION = "Physicochemical", "Absorption", "Distribution"
METABOLISM, EXCRETION, TOXICITY = "Metabolism", "Excretion", "Toxicity"
CATEGORIES = (PROPERTIES, ABSORPTION, DISTRIBUTION, METABOLISM, EXCRETION, TOXICITY)
RULE, PROBABILITY, NUMBER = "rule", "probability", "number"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """id: of the library. kind: computed by rule, a probability, or a number of a regression. source: of the labels."""

    id: str
    name: str
    category: str
    kind: str
    unit: str
    low: float | None
    high: float | None
    source: str
    note: str = ""


def _rule(id: str, name: str, unit: str, high: float | None = None, low: float | None = 0.0) -> Endpoint:
    return Endpoint(id, name, PROPERTIES, RULE, unit, low, high, "RDKit")


def _share(category: str, id: str, name: str, source: str) -> Endpoint:
    return Endpoint(id, name, category, PROBABILITY, "probability", 0.0, 1.0, source)


def _number(
    category: str, id: str, name: str, unit: str, source: str, low: float | None = None, high: float | None = None,
    note: str = "",
) -> Endpoint:  # fmt: skip
    return Endpoint(id, name, category, NUMBER, unit, low, high, source, note)


_TOX21 = "Tox21 (TDC)"
ENDPOINTS: tuple[Endpoint, ...] = (
    _rule("molecular_weight", "Molecular weight", "Da"),
    _rule("logP", "logP (Crippen)", "log10", low=None),
    _rule("hydrogen_bond_acceptors", "Hydrogen bond acceptors", "count"),
    _rule("hydrogen_bond_donors", "Hydrogen bond donors", "count"),
    _rule("Lipinski", "Rules of Lipinski that hold", "of 4", 4.0),
    _rule("QED", "Drug-likeness (QED)", "0 to 1", 1.0),
    _rule("stereo_centers", "Stereo centres", "count"),
    _rule("tpsa", "Topological polar surface", "A^2"),
    _rule("PAINS_alert", "PAINS alerts", "count"),
    _rule("BRENK_alert", "Brenk alerts", "count"),
    _rule("NIH_alert", "NIH alerts", "count"),
    _share(ABSORPTION, "HIA_Hou", "Human intestinal absorption", "Hou et al. 2007 (TDC)"),
    _share(ABSORPTION, "Bioavailability_Ma", "Oral bioavailability of 20 % or more", "Ma et al. 2008 (TDC)"),
    _number(ABSORPTION, "Solubility_AqSolDB", "Aqueous solubility", "log10(mol/L)", "AqSolDB (TDC)"),
    _number(ABSORPTION, "Lipophilicity_AstraZeneca", "Lipophilicity (logD at pH 7.4)", "log10", "AstraZeneca (TDC)"),
    _number(
        ABSORPTION, "HydrationFreeEnergy_FreeSolv", "Hydration free energy", "kcal/mol", "FreeSolv (TDC)"
    ),
    _number(
        ABSORPTION, "Caco2_Wang", "Caco-2 permeability", "log10(cm/s)", "Wang et al. 2016 (TDC)",
        note="The library's table says log(10^-6 cm/s); its values, about -5, are those of log10(cm/s).",
    ),
    _share(ABSORPTION, "PAMPA_NCATS", "PAMPA permeability", "NCATS (TDC)"),
    _share(ABSORPTION, "Pgp_Broccatelli", "P-glycoprotein inhibition", "Broccatelli et al. 2011 (TDC)"),
    _share(DISTRIBUTION, "BBB_Martins", "Blood-brain barrier penetration", "Martins et al. 2012 (TDC)"),
    _number(DISTRIBUTION, "PPBR_AZ", "Plasma protein binding", "%", "AstraZeneca (TDC)", 0.0, 100.0),
    _number(
        DISTRIBUTION, "VDss_Lombardo", "Volume of distribution at steady state", "L/kg", "Lombardo et al. 2016 (TDC)",
        0.0,
    ),
    _number(EXCRETION, "Half_Life_Obach", "Half-life", "h", "Obach et al. 2008 (TDC)", 0.0),
    _number(
        EXCRETION, "Clearance_Hepatocyte_AZ", "Clearance by hepatocytes", "uL/min/10^6 cells", "AstraZeneca (TDC)", 0.0
    ),
    _number(EXCRETION, "Clearance_Microsome_AZ", "Clearance by microsomes", "uL/min/mg", "AstraZeneca (TDC)", 0.0),
    _share(METABOLISM, "CYP1A2_Veith", "CYP1A2 inhibition", "Veith et al. 2009 (TDC)"),
    _share(METABOLISM, "CYP2C19_Veith", "CYP2C19 inhibition", "Veith et al. 2009 (TDC)"),
    _share(METABOLISM, "CYP2C9_Veith", "CYP2C9 inhibition", "Veith et al. 2009 (TDC)"),
    _share(METABOLISM, "CYP2D6_Veith", "CYP2D6 inhibition", "Veith et al. 2009 (TDC)"),
    _share(METABOLISM, "CYP3A4_Veith", "CYP3A4 inhibition", "Veith et al. 2009 (TDC)"),
    _share(METABOLISM, "CYP2C9_Substrate_CarbonMangels", "CYP2C9 substrate", "Carbon-Mangels et al. 2011 (TDC)"),
    _share(METABOLISM, "CYP2D6_Substrate_CarbonMangels", "CYP2D6 substrate", "Carbon-Mangels et al. 2011 (TDC)"),
    _share(METABOLISM, "CYP3A4_Substrate_CarbonMangels", "CYP3A4 substrate", "Carbon-Mangels et al. 2011 (TDC)"),
    _share(TOXICITY, "hERG", "hERG blocking", "Wang et al. 2016 (TDC)"),
    _share(TOXICITY, "ClinTox", "Failed in trials for toxicity", "ClinTox (TDC)"),
    _share(TOXICITY, "AMES", "Mutagenicity (Ames)", "Xu et al. 2012 (TDC)"),
    _share(TOXICITY, "DILI", "Drug-induced liver injury", "Xu et al. 2015 (TDC)"),
    _share(TOXICITY, "Carcinogens_Lagunin", "Carcinogenicity", "Lagunin et al. 2009 (TDC)"),
    _number(TOXICITY, "LD50_Zhu", "Acute toxicity (LD50, rat)", "log10(kg/mol)", "Zhu et al. 2009 (TDC)"),
    _share(TOXICITY, "Skin_Reaction", "Skin reaction", "Alves et al. 2015 (TDC)"),
    _share(TOXICITY, "NR-AR", "Androgen receptor", _TOX21),
    _share(TOXICITY, "NR-AR-LBD", "Androgen receptor, binding domain", _TOX21),
    _share(TOXICITY, "NR-AhR", "Aryl hydrocarbon receptor", _TOX21),
    _share(TOXICITY, "NR-Aromatase", "Aromatase", _TOX21),
    _share(TOXICITY, "NR-ER", "Oestrogen receptor", _TOX21),
    _share(TOXICITY, "NR-ER-LBD", "Oestrogen receptor, binding domain", _TOX21),
    _share(TOXICITY, "NR-PPAR-gamma", "PPAR-gamma", _TOX21),
    _share(TOXICITY, "SR-ARE", "Antioxidant response element", _TOX21),
    _share(TOXICITY, "SR-ATAD5", "ATAD5 (genotoxic stress)", _TOX21),
    _share(TOXICITY, "SR-HSE", "Heat shock response", _TOX21),
    _share(TOXICITY, "SR-MMP", "Mitochondrial membrane potential", _TOX21),
    _share(TOXICITY, "SR-p53", "p53 response", _TOX21),
)  # fmt: skip
PLACES = {endpoint.id: at for at, endpoint in enumerate(ENDPOINTS)}

ABOVE, BELOW = "above-range", "below-range"


def clamp(endpoint: Endpoint, value: float) -> tuple[float, str]:
    """The value within the endpoint's bounds, and what was cut: "", "above-range" or "below-range"."""
    if endpoint.high is not None and value > endpoint.high:
        return endpoint.high, ABOVE
    if endpoint.low is not None and value < endpoint.low:
        return endpoint.low, BELOW
    return value, ""
