"""Says how many requests each operation got and what was answered, and fails where one was never seen to do its work:
then the run has shown nothing about it. With --log: that the server's log does not hold the token."""

import base64
import json
import shlex
import sys


def answered(path):
    with open(path, encoding="utf-8") as file:
        counts = json.load(file)
    idle = []
    total = 0
    print(f"{'requests':>8}  operation")
    for operation, by_status in sorted(counts.items()):
        number = sum(by_status.values())
        total += number
        statuses = ", ".join(f"{status}: {by_status[status]}" for status in sorted(by_status))
        print(f"{number:>8}  {operation}  ({statuses})")
        # A method that the document does not know has nothing to do.
        if not operation.startswith("(") and not any(status.startswith("2") for status in by_status):
            idle.append(operation)
    print(f"{total:>8}  in all")
    if not counts:
        idle.append("anything")
    for operation in idle:
        print(f"never did its work: {operation}", file=sys.stderr)
    return not idle


def silent(log, out):
    with open(out, encoding="utf-8") as lines:
        command = next(line for line in lines if line.startswith("curl ") and "serviceAccountToken" in line)
    token = json.loads(shlex.split(command)[-1])["serviceAccountToken"].encode()
    with open(log, "rb") as file:
        written = file.read()
    # As base64 each text has three forms, by where it begins; their middles are the same in any surroundings.
    forms = [token] + [base64.b64encode(b"\0" * shift + token)[4:-4] for shift in range(3)]
    told = any(form in written for form in forms)
    if told:
        print("the token is in the server's log", file=sys.stderr)
    for line in written.decode(errors="replace").splitlines():
        if " ERROR " in line or "panicked at" in line:
            print(f"the server's log: {line}", file=sys.stderr)
            told = True
    return not told


if __name__ == "__main__":
    passed = silent(*sys.argv[2:]) if sys.argv[1] == "--log" else answered(sys.argv[1])
    sys.exit(0 if passed else 1)
