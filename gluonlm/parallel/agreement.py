"""What all workers of a training must have alike, compared before the first step.

>>> check_equal(group, config, corpus, devices=1, kvstore="dist_sync")
"""

import hashlib
import json
import os
import socket
from pathlib import Path

from gluonlm.config import Config
from gluonlm.system.errors import UserError
from gluonlm.system.machine import version
from gluonlm.text.corpus import Corpus
from gluonlm.training.group import Group


def check_equal(group: Group, config: Config, corpus: Corpus, devices: int, kvstore: str) -> None:
    """Compare with the other workers all that must be the same.

    :raises UserError: on every worker, with a sentence on the first difference; for what ``dist_async`` cannot do.
    """
    if group.asynchronous:
        check_asynchronous(config)
    own = {
        "gluonlm's code": code_hash(),
        "version of mxnet": version("mxnet") or version("mxnet-cu112"),
        "version of numpy": version("numpy"),
        "--kvstore": kvstore,
        "number of devices": devices,
        **{
            f"--{name.replace('_', '-')}": value
            for name, value in json.loads(config.to_json()).items()
        },
        **corpus.hashes,
    }
    address = os.environ.get("DMLC_NODE_HOST")
    host = f"{socket.gethostname()} ({address})" if address else socket.gethostname()
    (first, first_host), *others = group.all_gather_object("settings", [own, host])
    for number, (values, host) in enumerate(others, 1):
        for name, value in values.items():
            if value != first.get(name):
                raise UserError(
                    f"workers 0 on {first_host} and {number} on {host} differ in {name} ({first.get(name)} and "
                    f"{value}): it must be the same on all machines"
                )


def check_asynchronous(config: Config) -> None:
    """Raise a UserError for settings that workers which do not wait for each other cannot follow."""
    for setting in ("finetune", "restore_best", "nonmono", "compress", "prune"):
        value = getattr(config, setting)
        if value is not None and value is not False:  # 0 is a value
            name = setting.replace("_", "-")
            raise UserError(
                f"--{name} needs workers that take each step together: use --kvstore dist_sync"
            )
    if config.optimizer != "sgd":
        raise UserError(
            f"--optimizer {config.optimizer} has a memory of its own on each worker of dist_async, which no checkpoint "
            "holds: use sgd, or --kvstore dist_sync"
        )


def code_hash() -> str:
    """A hash of the package's source."""
    package = Path(__file__).parents[1]
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".c", ".h"))
    content = b"".join(
        str(path.relative_to(package)).encode() + path.read_bytes() for path in files
    )
    return hashlib.sha256(content).hexdigest()[:12]
