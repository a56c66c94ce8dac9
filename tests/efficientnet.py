"""Ask EfficientNet-Lite0 every first question about the 20 ImageNet samples and print one line of JSON: answers, seconds, memory.

Run as a process of its own, so that the peak memory is that of these questions alone.
"""

import json
import resource
import sys
import time
from math import inf

import torch

import assets
import brittle as bt


def ask(name: str, verb, report: dict) -> None:
    started = time.perf_counter()
    bracket = verb()
    finite = lambda values: [value if abs(value) < inf else None for value in values.tolist()]
    report[name] = {
        "lower": finite(bracket.lower),
        "upper": finite(bracket.upper),
        "kinds": [list(bracket.kinds.lower), list(bracket.kinds.upper)],
        "status": sorted(set(bracket.status)),
        "passes": [bracket.cost.forward, bracket.cost.backward],
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(name, report[name]["seconds"], "s,", report[name]["peak_gb"], "GB", file=sys.stderr, flush=True)


def consult(network, x, labels) -> dict:
    started = time.perf_counter()
    health = bt.doctor(network, x, labels)
    return {"worst": health.worst, "doubts": health.doubts, "seconds": round(time.perf_counter() - started, 1)}


def main(questions: list[str]) -> None:
    torch.set_num_threads(1)
    network = assets.efficientnet(0)
    x, labels = assets.imagenet(224)
    with torch.no_grad():
        top = network(x).topk(5).indices
    correct = top[:, 0] == labels
    report: dict = {"top1": int(correct.sum()), "top5": int((top == labels[:, None]).any(1).sum())}
    report["correct"] = correct.tolist()
    ball = lambda p, radius=1.0: bt.Problem(network, x, labels, bt.Ball(p, radius, 0, 1))
    verbs = {
        "l2": lambda: bt.radius(ball(2), ends="upper", effort="quick"),
        "linf": lambda: bt.radius(ball(inf), ends="upper", effort="quick"),
        "noise": lambda: bt.probability(ball(2), bt.Gaussian(0.05), ends="lower", draws=50),
        "both": lambda: bt.probability(ball(2), bt.Gaussian(0.02), ends="both", effort="quick", draws=50),
        "certificate": lambda: bt.margin(ball(inf, 1 / 255).take(torch.arange(3)), ends="lower", effort="quick"),
    }
    for name in questions or (*verbs, "doctor"):
        if name == "doctor":
            report[name] = consult(network, x, labels)
        else:
            ask(name, verbs[name], report)
    report["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in kB
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
