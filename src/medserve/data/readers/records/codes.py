"""Code systems in short, names of common measurements, and what a living body can show.

    short("http://loinc.org")                   # "loinc"
    COMMON["loinc|8867-4"]                      # Measure("Heart rate", "/min", 0, 350)

The limits are wide on purpose: they catch a value in a wrong unit or a slip of the pen, never a very ill patient.
Sources: HL7 Terminology (THO) for the system URLs; LOINC for codes and names; the variables of the PhysioNet/CinC
Challenge 2012. The limits are of the kind that Harutyunyan et al. (Sci Data 6:96, 2019) use to clean MIMIC-III,
widened and rounded.
"""

from typing import NamedTuple

SYSTEMS = {
    "http://loinc.org": "loinc",
    "http://snomed.info/sct": "snomed",
    "http://www.nlm.nih.gov/research/umls/rxnorm": "rxnorm",
    "http://hl7.org/fhir/sid/cvx": "cvx",
    "http://hl7.org/fhir/sid/ndc": "ndc",
    "http://hl7.org/fhir/sid/icd-10": "icd10",
    "http://hl7.org/fhir/sid/icd-10-cm": "icd10cm",
    "http://www.cms.gov/medicare/coding/icd10": "icd10pcs",
    "http://hl7.org/fhir/sid/icd-9-cm": "icd9cm",
    "http://www.whocc.no/atc": "atc",
    "http://www.ama-assn.org/go/cpt": "cpt4",
    "http://unitsofmeasure.org": "ucum",
    "http://terminology.hl7.org/codesystem/v3-actcode": "act",
    "urn:oid:2.16.840.1.113883.6.96": "snomed",
    "urn:oid:2.16.840.1.113883.6.1": "loinc",
    "urn:oid:2.16.840.1.113883.6.88": "rxnorm",
}
VOCABULARIES = {"rxnorm extension": "rxnorm", "visit": "visit"}  # of OMOP, where not the name in small letters
PREFERRED = ("loinc", "snomed", "rxnorm", "atc", "cvx", "icd10cm", "icd10", "icd9cm")
MAX_CODE = 200  # characters


def short(system: str | None) -> str:
    """The name of a code system; one that is not in the table keeps its address."""
    if not system:
        return "local"
    known = SYSTEMS.get(system) or SYSTEMS.get(system.rstrip("/").lower())
    return known or system.rstrip("/")[-MAX_CODE:]


def vocabulary(name: str) -> str:
    """The same for `vocabulary_id` of OMOP."""
    lower = name.lower()
    return VOCABULARIES.get(lower, lower.replace(" ", "-"))


class Measure(NamedTuple):
    """low, high: in `unit` (UCUM); values outside are not measurements of a living patient."""

    name: str
    unit: str | None
    low: float
    high: float


_LOINC = {
    "8867-4": Measure("Heart rate", "/min", 0, 350),
    "9279-1": Measure("Respiratory rate", "/min", 0, 150),
    "8310-5": Measure("Body temperature", "Cel", 14, 47),
    "8331-1": Measure("Oral temperature", "Cel", 14, 47),
    "8480-6": Measure("Systolic blood pressure", "mm[Hg]", 0, 375),
    "8462-4": Measure("Diastolic blood pressure", "mm[Hg]", 0, 375),
    "8478-0": Measure("Mean blood pressure", "mm[Hg]", 0, 375),
    "2708-6": Measure("Oxygen saturation", "%", 0, 100),
    "59408-5": Measure("Oxygen saturation by pulse oximetry", "%", 0, 100),
    "3150-6": Measure("Inspired oxygen fraction", "%", 20, 100),
    "9269-2": Measure("Glasgow coma score", "{score}", 3, 15),
    "8302-2": Measure("Body height", "cm", 15, 275),
    "29463-7": Measure("Body weight", "kg", 0.2, 700),
    "39156-5": Measure("Body mass index", "kg/m2", 5, 250),
    "2339-0": Measure("Glucose", "mg/dL", 2, 2500),
    "2345-7": Measure("Glucose", "mg/dL", 2, 2500),
    "15074-8": Measure("Glucose", "mmol/L", 0.1, 140),
    "4548-4": Measure("Hemoglobin A1c", "%", 2, 25),
    "38483-4": Measure("Creatinine", "mg/dL", 0.05, 66),
    "2160-0": Measure("Creatinine", "mg/dL", 0.05, 66),
    "14682-9": Measure("Creatinine", "umol/L", 4, 5800),
    "3094-0": Measure("Urea nitrogen", "mg/dL", 0.5, 290),
    "6299-2": Measure("Urea nitrogen", "mg/dL", 0.5, 290),
    "2951-2": Measure("Sodium", "mmol/L", 50, 250),
    "2947-0": Measure("Sodium", "mmol/L", 50, 250),
    "2823-3": Measure("Potassium", "mmol/L", 0.5, 15),
    "6298-4": Measure("Potassium", "mmol/L", 0.5, 15),
    "2075-0": Measure("Chloride", "mmol/L", 50, 200),
    "2069-3": Measure("Chloride", "mmol/L", 50, 200),
    "2028-9": Measure("Carbon dioxide", "mmol/L", 0.5, 80),
    "1963-8": Measure("Bicarbonate", "mmol/L", 0.5, 80),
    "17861-6": Measure("Calcium", "mg/dL", 1, 28),
    "49765-1": Measure("Calcium", "mg/dL", 1, 28),
    "19123-9": Measure("Magnesium", "mg/dL", 0.1, 22),
    "2777-1": Measure("Phosphate", "mg/dL", 0.1, 30),
    "1751-7": Measure("Albumin", "g/dL", 0.3, 7),
    "2885-2": Measure("Protein", "g/dL", 1, 20),
    "1975-2": Measure("Bilirubin", "mg/dL", 0, 80),
    "1742-6": Measure("Alanine aminotransferase", "U/L", 0, 50000),
    "1920-8": Measure("Aspartate aminotransferase", "U/L", 0, 50000),
    "6768-6": Measure("Alkaline phosphatase", "U/L", 0, 10000),
    "718-7": Measure("Hemoglobin", "g/dL", 0.5, 27),
    "4544-3": Measure("Hematocrit", "%", 2, 80),
    "6690-2": Measure("Leukocytes", "10*3/uL", 0, 1000),
    "777-3": Measure("Platelets", "10*3/uL", 0, 3000),
    "32693-4": Measure("Lactate", "mmol/L", 0.05, 40),
    "2524-7": Measure("Lactate", "mmol/L", 0.05, 40),
    "2744-1": Measure("Arterial pH", "[pH]", 6.2, 8.2),
    "2019-8": Measure("Arterial carbon dioxide pressure", "mm[Hg]", 5, 250),
    "2703-7": Measure("Arterial oxygen pressure", "mm[Hg]", 5, 800),
    "2093-3": Measure("Cholesterol", "mg/dL", 10, 2000),
    "2571-8": Measure("Triglycerides", "mg/dL", 5, 15000),
    "2085-9": Measure("HDL cholesterol", "mg/dL", 1, 300),
    "18262-6": Measure("LDL cholesterol", "mg/dL", 1, 1500),
    "33914-3": Measure("Estimated glomerular filtration", "mL/min/{1.73_m2}", 0, 250),
    "1988-5": Measure("C-reactive protein", "mg/L", 0, 1000),
}
_CHALLENGE_2012 = {  # the set gives no units; those of the challenge's page
    "ALP": Measure("Alkaline phosphatase", None, 1, 10000),
    "ALT": Measure("Alanine aminotransferase", None, 1, 50000),
    "AST": Measure("Aspartate aminotransferase", None, 1, 50000),
    "Albumin": Measure("Albumin", None, 0.3, 7),
    "BUN": Measure("Urea nitrogen", None, 0.5, 290),
    "Bilirubin": Measure("Bilirubin", None, 0, 80),
    "Cholesterol": Measure("Cholesterol", None, 10, 2000),
    "Creatinine": Measure("Creatinine", None, 0.05, 66),
    "DiasABP": Measure("Invasive diastolic blood pressure", None, 5, 250),
    "FiO2": Measure("Inspired oxygen fraction", None, 0.2, 1),
    "GCS": Measure("Glasgow coma score", None, 3, 15),
    "Glucose": Measure("Glucose", None, 2, 2500),
    "HCO3": Measure("Bicarbonate", None, 0.5, 80),
    "HCT": Measure("Hematocrit", None, 2, 80),
    "HR": Measure("Heart rate", None, 5, 350),
    "K": Measure("Potassium", None, 0.5, 25),
    "Lactate": Measure("Lactate", None, 0.05, 40),
    "MAP": Measure("Invasive mean blood pressure", None, 5, 300),
    "MechVent": Measure("Mechanical ventilation", None, 0, 1),
    "Mg": Measure("Magnesium", None, 0.1, 22),
    "NIDiasABP": Measure("Diastolic blood pressure", None, 5, 250),
    "NIMAP": Measure("Mean blood pressure", None, 5, 300),
    "NISysABP": Measure("Systolic blood pressure", None, 10, 375),
    "Na": Measure("Sodium", None, 50, 250),
    "PaCO2": Measure("Arterial carbon dioxide pressure", None, 5, 250),
    "PaO2": Measure("Arterial oxygen pressure", None, 5, 800),
    "Platelets": Measure("Platelets", None, 0.5, 3000),
    "RespRate": Measure("Respiratory rate", None, 0, 150),
    "SaO2": Measure("Oxygen saturation", None, 10, 100),
    "SysABP": Measure("Invasive systolic blood pressure", None, 10, 375),
    "Temp": Measure("Body temperature", None, 14, 47),
    "TroponinI": Measure("Troponin I", None, 0, 1000),
    "TroponinT": Measure("Troponin T", None, 0, 1000),
    "Urine": Measure("Urine output", None, 0, 12000),
    "WBC": Measure("Leukocytes", None, 0, 1000),
    "Weight": Measure("Body weight", None, 0.2, 700),
    "pH": Measure("Arterial pH", None, 6.2, 8.2),
}
COMMON: dict[str, Measure] = {f"loinc|{code}": said for code, said in _LOINC.items()} | _CHALLENGE_2012
