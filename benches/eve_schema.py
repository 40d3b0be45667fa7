#!/usr/bin/env python3
"""Events with `format = "suricata"` against Suricata's JSON schema.

Input: the schema (etc/schema.json of Suricata's sources, GPL-2.0, not part of this repository) and captures or folders of them.
Output: events by type, and each kind of violation with an example; exit code 1 if there is any.

    pip install jsonschema
    python3 benches/eve_schema.py --schema suricata/etc/schema.json --spiked target/release/spiked fixtures/captures

`--events FILE` validates events that were written elsewhere, such as by a sink of the daemon.
"""

import argparse
import collections
import contextlib
import json
import subprocess
import sys

import jsonschema


def lines_of(arguments):
    """Lines of events of every kind, by the program."""
    for kind in ("detections", "streams", "episodes"):
        for options in ([], ["--every-packet", "--interface-in-key"]):
            command = [arguments.spiked, "read", "--quiet", "--format", "suricata", "--events", kind, *options]
            for model in arguments.model:
                command += ["--model", model]
            with subprocess.Popen([*command, *arguments.captures], stdout=subprocess.PIPE) as program:
                yield from program.stdout


def shape(value):
    """Keys and types of a value."""
    if isinstance(value, dict):
        return tuple((key, shape(inner)) for key, inner in sorted(value.items()) if key != "spiked")
    if isinstance(value, list):
        return ("list", shape(value[0]) if value else None)
    return type(value).__name__


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schema", required=True)
    parser.add_argument("--spiked", default="target/release/spiked")
    parser.add_argument("--model", action="append", default=[], help="as of spiked read; may be repeated")
    parser.add_argument("--events", help="a file of events, in place of captures")
    parser.add_argument("--same", type=int, default=100, help="events validated of those with the same keys and types of values")
    parser.add_argument("captures", nargs="*")
    arguments = parser.parse_args()
    with open(arguments.schema, encoding="utf-8") as file:
        schema = json.load(file)
    # Suricata's schema leaves no room for fields of other programs; all of ours are in one object.
    schema["properties"]["spiked"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    types, keys, shapes, wrong = collections.Counter(), collections.Counter(), collections.Counter(), {}
    with open(arguments.events, "rb") if arguments.events else contextlib.nullcontext() as source:
        for line in source or lines_of(arguments):
            event = json.loads(line)
            types[event["event_type"]] += 1
            keys.update(event.keys())
            shapes[shape(event)] += 1
            if shapes[shape(event)] > arguments.same:
                continue
            for error in validator.iter_errors(event):
                kind = ("/".join(map(str, error.absolute_path)), error.validator, error.message[:80])
                wrong.setdefault(kind, [0, event])[0] += 1
    print(f"{sum(types.values())} events: " + ", ".join(f"{count} {name}" for name, count in sorted(types.items())))
    validated = sum(min(count, arguments.same) for count in shapes.values())
    print(f"{validated} of them validated, of {len(shapes)} shapes")
    print("keys: " + ", ".join(f"{key} {count}" for key, count in sorted(keys.items())))
    for (path, validator_name, message), (count, event) in wrong.items():
        print(f"{count} events: {path or 'the event'}: {validator_name}: {message}\n  {json.dumps(event)}")
    print(f"{sum(count for count, _ in wrong.values())} violations of {len(wrong)} kinds")
    sys.exit(1 if wrong or not types else 0)


if __name__ == "__main__":
    main()
