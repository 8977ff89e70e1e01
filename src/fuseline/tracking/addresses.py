"""Addresses of servers and databases: what the environment fills in, and who asks."""

from __future__ import annotations

import os
import re
from string import Template
from urllib.parse import unquote, urlsplit, urlunsplit

from fuseline.errors import UserError
from fuseline.store import home

PASSWORD = re.compile(r"://[^/@\s:]*:(?!\$\{\w+\}@)[^/@\s]+@")


def holds_password(address: str) -> bool:
    """Whether a password stands in an address.

    >>> holds_password("http://me:secret@host"), holds_password("http://me:${SECRET}@host"), holds_password("http://host:5000")
    (True, False, False)
    """
    return PASSWORD.search(address) is not None


def filled(text: str) -> str:
    """A text with each ``${NAME}`` replaced by what the environment says.

    Raises:
        UserError: the environment does not know a name.
    """
    try:
        return Template(text).substitute({**os.environ, "FUSELINE_HOME": str(home())})
    except KeyError as error:
        raise UserError(f"mlflow.yml: ${{{error.args[0]}}}: the environment has no such variable; set it.") from None
    except ValueError:
        raise UserError(f"mlflow.yml: {text!r}: a $ that is meant as such is written $$.") from None


def parted(address: str) -> tuple[str, str | None, str | None]:
    """An address without who asks, and who that is: name and password.

    >>> parted("http://me:a%2Fb@host:5000/api")
    ('http://host:5000/api', 'me', 'a/b')
    """
    parts = urlsplit(address)
    who, _, place = parts.netloc.rpartition("@")
    name, _, password = who.partition(":")
    return urlunsplit(parts._replace(netloc=place)) if who else address, unquote(name) or None, unquote(password) or None


def anonymous(address: str) -> str:
    """The address of a server; who asks goes where MLflow's client looks for it, so that no record can hold it."""
    if not address.startswith("http"):
        return address
    place, name, password = parted(address)
    for variable, value in (("MLFLOW_TRACKING_USERNAME", name), ("MLFLOW_TRACKING_PASSWORD", password)):
        if value is not None:
            os.environ[variable] = value
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        if os.environ.get(variable) == address:
            os.environ[variable] = place
    return place
