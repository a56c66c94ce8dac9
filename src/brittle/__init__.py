"""brittle: how brittle is your network, why, and what cures it? Every answer is a bracket: proved below, witnessed above."""

from importlib import import_module

__version__ = "0.1.0"

# public name -> the module that holds it; nothing is imported before it is used
_HOME = {
    "Problem": "problem",
    "Ball": "region",
    "Gaussian": "laws",
    "Laplace": "laws",
    "UniformBall": "laws",
    "UniformCube": "laws",
    "UniformSphere": "laws",
    "Replace": "laws",
    "Sampler": "laws",
    "Untargeted": "spec",
    "Targeted": "spec",
    "TopK": "spec",
    "Threshold": "spec",
    "Bracket": "results",
    "Witness": "results",
    "Certificate": "results",
    "Finding": "results",
    "Cost": "results",
    "InputError": "errors",
    "NotCertified": "errors",
    "BracketError": "errors",
    "About": "about",
    "margin": "questions.margin",
    "radius": "questions.radius",
    "accuracy": "questions.accuracy",
    "probability": "questions.probability",
    "population": "questions.population",
    "tolerated_noise": "questions.tolerated_noise",
    "smoothed_radius": "questions.smoothed_radius",
    "foreign": "questions.foreign",
    "optimum": "questions.optimum",
    "diagnose": "questions.diagnose",
    "spectrum": "questions.spectrum",
    "Subspace": "subspace",
    "embedded": "embeddings",
    "averaged": "averaging",
    "failure_rate": "questions.failure_rate",
    "surgery": "cures.surgery",
    "normalise": "cures.normalise",
    "doctor": "health",
    "audit": "runs",
    "load_run": "store",
    "verify": "verifier",
    "harden": "training",
    "methods": "discovery",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        from difflib import get_close_matches

        near = get_close_matches(name, _HOME, 1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise AttributeError(f"module 'brittle' has no attribute {name!r}; {meant}it has {', '.join(sorted(_HOME))}")
    value = getattr(import_module(f"brittle.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
