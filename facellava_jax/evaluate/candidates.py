"""The answers that are scored where a model is to choose among labels, in place of answering freely.

Answers as FaceInstruct-1M has them: an emotion in the last sentence, an age at the beginning, Fake or Real first.
"""

from collections.abc import Mapping

from ..answers import EMOTIONS, Task
from .benchmark import Benchmark
from .facts import EvaluateError

# The emotions of a data set that does not say which it has: contempt is in few.
SEVEN = tuple(emotion for emotion in EMOTIONS if emotion != "contempt")
OLDEST = 100


def list_candidates(task: Task, benchmark: Benchmark) -> Mapping[str, str]:
    """The answer to score for each label.

    Raises EvaluateError for a task whose labels are too many to choose from: sets of action units or attributes.
    """
    if task == "emotion":
        emotions = benchmark.classes if benchmark.task == task and benchmark.classes else SEVEN
        return {emotion: f"The emotion shown is {emotion}." for emotion in emotions}
    if task == "deepfake":
        return {"real": "Real.", "fake": "Fake."}
    if task == "age":
        return {str(age): f"{age} years old." for age in range(OLDEST + 1)}
    others = "" if benchmark.task else ", or --task emotion, age or deepfake"
    raise EvaluateError(
        f"{task}: an answer names several, and --method score chooses one: use --method generate{others}"
    )
