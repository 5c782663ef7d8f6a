"""What a teacher says of the training rows."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Teaching:
    """A teacher's answers, one a training row.

    Attributes:
        logits: float32 [rows, classes], classes in the student's order.
        labelled: bool [rows]; rows without a label of their own carry the teacher's best guess for one.
        temperature: Of both sides' probabilities.
        share: Of the loss that is on the teacher's probabilities where a row is labelled.
        hidden: Weight of the distance between the features.
        features: What the teacher's output layer sees, float32 [rows, width]; none where they weigh nothing.
    """

    logits: npt.NDArray[np.float32]
    labelled: npt.NDArray[np.bool_]
    temperature: float
    share: float
    hidden: float = 0.0
    features: npt.NDArray[np.float32] | None = None
