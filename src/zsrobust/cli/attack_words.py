"""What ``zsrobust attack`` prints and writes.

Apart from the options, because jsonargparse resolves every import of their module, those for type checkers too.
"""

from __future__ import annotations

from pathlib import Path

from zsrobust.attacks.binding import Asked
from zsrobust.attacks.checks import Verdict
from zsrobust.attacks.oblivious import Oblivious
from zsrobust.attacks.suites import Suite
from zsrobust.one_image import Attacked, describe_size
from zsrobust.pictures import png
from zsrobust.run_folder import write_atomically


def write(found: Attacked, out: Path, beside: Path) -> list[tuple[Path, str]]:
    """The two PNG files, each with what it is."""
    write_atomically(out, png(found.image))
    write_atomically(beside, png(found.perturbation))
    return [(out, "the adversarial image"), (beside, f"the change, {found.magnification:.0f} times magnified")]


def tell(found: Attacked, attack: Asked, *, own_label: bool) -> None:
    """Prints the attack, the probabilities and the verdicts."""
    names, label = found.class_names, found.label
    whose = "the model's own answer to the unchanged image" if own_label else "as given"
    aim = "anything else" if found.target is None else f"'{names[found.target]}'"
    print(f"Label    '{names[label]}' ({whose})")
    print(f"Attack   {attack.name} within {attack.threat.describe()}, towards {aim}")
    if isinstance(attack, Suite | Oblivious) and attack.for_classes(len(names)) is not attack:
        instead = attack.for_classes(len(names)).name
        print(f"Note     {attack.name} is not defined for {len(names)} labels: {instead} takes its place")
    if int(found.clean.predictions[0]) != label:
        print("Note     the model is wrong before any attack")
    if found.attack != attack.name:
        print(f"{'Found' if found.fooled(found.found) else 'Closest':<8} by {found.attack}")
    print(f"Change   {describe_size(attack.threat, found.size)}")
    print()
    width = max(len(name) for name in names)
    before, after = (verdict.logits[0].softmax(0).tolist() for verdict in (found.clean, found.found))
    print(f"         {'':<{width}}  before   after")
    for i in sorted(range(len(names)), key=lambda i: -max(before[i], after[i]))[:5]:
        print(f"         {names[i]:<{width}}  {before[i]:5.1%}  {after[i]:6.1%}")
    print()
    print(f"Verdict  {_verdict(found, found.found)}")
    print(f"         saved as an 8-bit file: {_verdict(found, found.rounded)}")


def _verdict(found: Attacked, verdict: Verdict) -> str:
    says = found.class_names[int(verdict.predictions[0])]
    if found.target is not None:
        return f"{'target reached' if found.fooled(verdict) else 'target missed'}: the model says '{says}'"
    if found.fooled(verdict):
        return f"broken: the model says '{says}'"
    return f"survived this attack: the model still says '{says}' (a stronger attack might do it)"
