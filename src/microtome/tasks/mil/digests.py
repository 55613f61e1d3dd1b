"""Names of patients and slides as salted hashes: enough to recognise one, no list to read."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


def patient_hash(patient_id: str, salt: str = "") -> str:
    """Salted SHA-256 of a patient's (or slide's) name, spaces around it left out; 64 hexadecimal digits.

    It keeps names out of a file that is passed on. It is no anonymisation: whoever can guess a name can test it.
    """
    return hashlib.sha256(f"{salt}\0{patient_id.strip()}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Digests:
    """A set of names, each as its salted hash; ``name in digests`` asks for one.

    Attributes:
        salt: What is hashed with each name.
        hashes: One per name.

    Example:
        >>> known = Digests.of(["TCGA-AA-0001", "TCGA-AA-0002"])
        >>> "TCGA-AA-0001" in known, "TCGA-AA-0003" in known, len(known)
        (True, False, 2)
    """

    salt: str = ""
    hashes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Iterable[str]) -> "Digests":
        """The set of these names; its salt follows from all of them, so that the same set is written the same."""
        own = sorted(set(names))
        salt = hashlib.sha256("\0".join(own).encode()).hexdigest()[:32]
        return cls(salt, frozenset(patient_hash(name, salt) for name in own))

    def __contains__(self, name: str) -> bool:
        return bool(self.hashes) and patient_hash(name, self.salt) in self.hashes

    def __len__(self) -> int:
        return len(self.hashes)
