#!/bin/sh
# Prints a password for each client of compose.yaml: sh passwords.sh > .env. Keep the file from others.
# nats-server takes a value of digits for a number: each begins with a letter.
for name in OPERATOR SENSORS VIEWER CURATOR WORKERS GRAFANA; do
  printf '%s_PASSWORD=p%s\n' "$name" "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
done
