"""Makes the roles of PostgreSQL, each time again: the job `accounts` of docker-compose.yml. No other container is told
the administrator's password.

python -m stack.compose_accounts
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from migrations.privileges import provision

SECRETS = Path("/run/secrets")


def main(secrets: Path = SECRETS) -> None:
    """`secrets`: a directory with DATABASE_URL, the administrator's, and passwords.json (see compose_secrets)."""
    passwords: dict[str, str] = json.loads((secrets / "passwords.json").read_text())
    asyncio.run(provision((secrets / "DATABASE_URL").read_text().strip(), passwords))


if __name__ == "__main__":
    main()
