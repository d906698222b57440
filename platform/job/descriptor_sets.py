"""Named sets of RDKit descriptors, for job files that would otherwise list up to 198 names.

A job names a set, and its section then has the set's descriptors written out, so that every silo
sees what is computed. A set never changes: a better one gets a new name.

physchem        16: size, lipophilicity, polarity, flexibility, rings; all that `esol-1` scales too
pharmacophore   31 that say what a molecule can bind with: donors, acceptors, acids, bases, aromatic
                and hydrophobic parts, halogens
surface         57 surface areas by partial charge, lipophilicity, refractivity and
                electrotopological state (Labute, J. Mol. Graph. Model. 2000, 18, 464), and the
                other way round
topology        22 indices of connectivity, shape and complexity
fragments       81 counts of functional groups
all             all 198 that `druglike-1` scales
"""

from __future__ import annotations


def _numbered(name: str, numbers: range) -> str:
    return " ".join(f"{name}{i}" for i in numbers)


_PHYSCHEM = (
    "MolWt MolLogP MolMR TPSA LabuteASA HeavyAtomCount FractionCSP3 NumHDonors NumHAcceptors "
    "NumHeteroatoms NumRotatableBonds RingCount NumAromaticRings BalabanJ BertzCT qed"
)
_PHARMACOPHORE = (
    "NumHDonors NumHAcceptors NHOHCount NOCount TPSA MolLogP NumAromaticCarbocycles "
    "NumAromaticHeterocycles NumAliphaticCarbocycles NumAliphaticHeterocycles fr_COO fr_Ar_OH "
    "fr_Al_OH fr_phos_acid fr_tetrazole fr_sulfonamd fr_amide fr_urea fr_NH0 fr_NH1 fr_NH2 fr_ArN "
    "fr_Ar_N fr_amidine fr_guanido fr_imidazole fr_piperdine fr_piperzine fr_quatN fr_halogen "
    "fr_unbrch_alkane"
)
_SURFACE = " ".join(
    [
        _numbered("PEOE_VSA", range(1, 15)),
        _numbered("SlogP_VSA", range(1, 9)),
        _numbered("SlogP_VSA", range(10, 13)),
        _numbered("SMR_VSA", range(1, 8)),
        _numbered("SMR_VSA", range(9, 11)),
        _numbered("EState_VSA", range(1, 12)),
        _numbered("VSA_EState", range(1, 11)),
        "LabuteASA TPSA",
    ]
)
_TOPOLOGY = (
    "AvgIpc BalabanJ BertzCT Chi0 Chi0n Chi0v Chi1 Chi1n Chi1v Chi2n Chi2v Chi3n Chi3v Chi4n Chi4v "
    "HallKierAlpha Kappa1 Kappa2 Kappa3 Phi SPS FractionCSP3"
)
_FRAGMENTS = (
    "fr_Al_COO fr_Al_OH fr_Al_OH_noTert fr_aldehyde fr_alkyl_carbamate fr_alkyl_halide "
    "fr_allylic_oxid fr_amide fr_amidine fr_aniline fr_Ar_COO fr_Ar_N fr_Ar_NH fr_Ar_OH fr_ArN "
    "fr_aryl_methyl fr_azide fr_azo fr_barbitur fr_benzene fr_benzodiazepine fr_bicyclic fr_C_O "
    "fr_C_O_noCOO fr_C_S fr_COO fr_COO2 fr_dihydropyridine fr_epoxide fr_ester fr_ether fr_furan "
    "fr_guanido fr_halogen fr_hdrzine fr_hdrzone fr_HOCCN fr_imidazole fr_imide fr_Imine "
    "fr_isothiocyan fr_ketone fr_ketone_Topliss fr_lactam fr_lactone fr_methoxy fr_morpholine "
    "fr_N_O fr_Ndealkylation1 fr_Ndealkylation2 fr_NH0 fr_NH1 fr_NH2 fr_Nhpyrrole fr_nitrile "
    "fr_nitro fr_nitro_arom fr_nitro_arom_nonortho fr_oxazole fr_oxime fr_para_hydroxylation "
    "fr_phenol fr_phenol_noOrthoHbond fr_phos_acid fr_phos_ester fr_piperdine fr_piperzine "
    "fr_priamide fr_prisulfonamd fr_pyridine fr_quatN fr_SH fr_sulfide fr_sulfonamd fr_sulfone "
    "fr_term_acetylene fr_tetrazole fr_thiazole fr_thiophene fr_unbrch_alkane fr_urea"
)
_OTHERS = (
    "ExactMolWt HeavyAtomMolWt FpDensityMorgan1 FpDensityMorgan2 FpDensityMorgan3 "
    "MaxAbsEStateIndex MaxEStateIndex MinAbsEStateIndex MinEStateIndex NHOHCount NOCount "
    "NumAliphaticCarbocycles NumAliphaticHeterocycles NumAliphaticRings NumAmideBonds "
    "NumAromaticCarbocycles NumAromaticHeterocycles NumAtomStereoCenters NumBridgeheadAtoms "
    "NumHeterocycles NumRadicalElectrons NumSaturatedCarbocycles NumSaturatedHeterocycles "
    "NumSaturatedRings NumSpiroAtoms NumUnspecifiedAtomStereoCenters NumValenceElectrons"
)
_ALL = f"{_PHYSCHEM} {_SURFACE} {_TOPOLOGY} {_FRAGMENTS} {_OTHERS}"

SETS: dict[str, tuple[str, ...]] = {
    name: tuple(dict.fromkeys(text.split()))
    for name, text in {
        "all": _ALL,
        "physchem": _PHYSCHEM,
        "pharmacophore": _PHARMACOPHORE,
        "surface": _SURFACE,
        "topology": _TOPOLOGY,
        "fragments": _FRAGMENTS,
    }.items()
}


def written_out(named: list[str]) -> list[str]:
    """Return a list of descriptors with those of sets in place of the sets' names.

    A descriptor that a set brings stands there once, whatever else names it; one that is named
    twice without a set stays twice, for the section to refuse.
    """
    of_sets = {one for name in named if name in SETS for one in SETS[name]}
    found = list[str]()
    for name in named:
        more = SETS.get(name, (name,))
        found += [one for one in more if one not in of_sets or one not in found]
    return found
