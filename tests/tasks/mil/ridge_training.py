"""A stand-in for training: ridge regression on mean vectors, quick and exact, that remembers what it was asked for."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from microtome.tasks.mil.jobs import JobResult


@dataclass
class RidgeTraining:
    """In the place of ``train_jobs``; after epoch e its logits are scaled by the e-th of ``gains``."""

    calls: list[Any] = field(default_factory=list)
    gains: tuple[float, ...] = ()

    def __call__(self, jobs, bags, labels, spec, objective, **how):
        self.calls.append((tuple(jobs), spec, how))
        means = np.stack([bags.read(row).mean(axis=0) for row in range(len(bags))]).astype(np.float64)
        means = np.hstack([means, np.ones((len(means), 1))])
        return [self._train(job, means, labels, objective) for job in jobs]

    def _train(self, job, means, labels, objective):
        fitted = objective.fitted(labels.values[job.train])
        x, y = means[job.train], labels.values[job.train][:, :1] * 2 - 1
        weights = np.linalg.solve(x.T @ x + 1e-2 * np.eye(x.shape[1]), x.T @ y)
        logits = np.repeat(means[job.test] @ weights, fitted.n_outputs, axis=1)
        curve = np.stack([self.gain(job, e) * logits for e in range(job.hyper.n_epochs)]).astype(np.float32)
        loss = np.zeros(job.hyper.n_epochs, np.float32)
        return JobResult(job.key, curve, loss, {}, fitted.state())

    def gain(self, job, epoch):
        return self.gains[epoch] if self.gains else 1.0

    @property
    def jobs(self):
        return [job for jobs, _, _ in self.calls for job in jobs]
