"""What all workers of a training must have alike, compared before the first step.

>>> check_equal(group, config, corpus, devices=1, kvstore="dist_sync")
"""

import hashlib
import json
import os
import socket
from pathlib import Path

from gluonlm.config import Config, option
from gluonlm.system.errors import UserError
from gluonlm.system.machine import version
from gluonlm.text.corpus import Corpus
from gluonlm.training.session import Group


def check_equal(group: Group, config: Config, corpus: Corpus, devices: int, kvstore: str) -> None:
    """Raise a UserError on all workers when they differ, or for what ``dist_async`` cannot do."""
    if group.asynchronous:
        check_asynchronous(config)
    own = {
        "gluonlm's code": code_hash(),
        "version of mxnet": version("mxnet") or version("mxnet-cu112"),
        "version of numpy": version("numpy"),
        "--kvstore": kvstore,
        "number of devices": devices,
        **{option(name): value for name, value in json.loads(config.to_json()).items()},
        **corpus.hashes,
    }
    address = os.environ.get("DMLC_NODE_HOST")
    host = f"{socket.gethostname()} ({address})" if address else socket.gethostname()
    (first, first_host), *others = group.all_gather_object("settings", [own, host])
    for rank, (values, host) in enumerate(others, 1):
        for name, value in values.items():
            if value != first.get(name):
                differ = f"differ in {name} ({first.get(name)} and {value})"
                workers = f"workers 0 on {first_host} and {rank} on {host}"
                raise UserError(f"{workers} {differ}: it must be the same on all machines")


def check_asynchronous(config: Config) -> None:
    """Raise a UserError for settings that need workers which take each step together."""
    for setting in ("finetune", "restore_best", "nonmono", "compress", "prune"):
        value = getattr(config, setting)
        if value is not None and value is not False:  # 0 is a value
            raise UserError(f"{option(setting)} needs workers in step: use --kvstore dist_sync")
    if config.optimizer != "sgd":
        lost = "has a memory on each worker of dist_async, which no checkpoint holds"
        advice = "use sgd, or --kvstore dist_sync"
        raise UserError(f"--optimizer {config.optimizer} {lost}: {advice}")


def code_hash() -> str:
    """A hash of the package's source."""
    package = Path(__file__).parents[1]
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".c", ".h"))
    content = (str(path.relative_to(package)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(b"".join(content)).hexdigest()[:12]
