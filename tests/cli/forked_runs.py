"""Runs of `sparsek` that can be killed, without the seconds that every start of Python takes.

Reads lines of JSON, {"words": […], "folder": "…", "environments": [{…}]}; forks a process for each environment (variables beside
those that are there), runs the command in the folder in each, and prints the numbers of the processes and then, when they have ended,
their exit statuses (negative: the signal).
"""

import json
import os
import sys
import traceback
import warnings

warnings.simplefilter("ignore")

import torch  # noqa: E402 - warnings of the imports are of no interest

from sparsek.cli import main  # noqa: E402 - as above

torch.set_num_threads(1)


def child(words, folder, environment):
    os.chdir(folder)
    os.environ.update(environment)
    log = os.open("output.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["sparsek", *words]
    try:
        main()
    except SystemExit as error:
        print(error, flush=True)
        os._exit(1 if error.code else 0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        processes = []
        for environment in asked.get("environments", [{}]):
            processes.append(os.fork())
            if processes[-1] == 0:
                child(asked["words"], asked["folder"], environment)
        print(*processes, sep="\n", flush=True)
        for process in processes:
            print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
