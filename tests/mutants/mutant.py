"""A mutant: a plausible mistake in the trainer, and the tests that notice it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One alteration of one file."""

    name: str  # also the test's id
    breaks: str  # what goes wrong, in plain words
    file: str  # from the checkout
    old: str  # stands in the file exactly once, or the mutant would be disarmed without a word
    new: str
    tests: tuple[
        str, ...
    ]  # node ids; of a parametrised test without its brackets, one case is enough

    def source(self) -> str:
        """The altered file. Raises ValueError where there is not exactly one place to alter."""
        text = (CHECKOUT / self.file).read_text()
        count = text.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: its old text stands {count} times in {self.file}")
        return text.replace(self.old, self.new)

    def plant(self, folder: Path) -> None:
        """A copy of the trainer in the folder, with the mistake."""
        copy_trainer(folder)
        (folder / self.file).write_text(self.source())


def copy_trainer(folder: Path) -> None:
    """The trainer's package as it is, with what Python has compiled of it: that stays good for a copy."""
    shutil.copytree(CHECKOUT / "trainer", folder / "trainer")
