"""The command `serve`."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated

import typer

from everclip.cli.options import DeviceOption, Setting, given, path_argument
from everclip.errors import InputError
from everclip.system.display import Display


def serve(
    model_dir: Annotated[Path, path_argument("MODEL_DIR", "The learner's directory; made if absent.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="EVERCLIP_TOKEN", help="What every request must carry as its bearer token.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name that it goes by, as browsers write it; repeatable."),
    ] = None,
    open_to_all: Annotated[
        bool,
        typer.Option("--open", help="Listen beyond this machine without a token: whoever reaches it may teach it."),
    ] = False,
    device: DeviceOption = None,
    settings: Setting = None,
) -> None:
    """Answer and learn over HTTP, and serve a page for it; --set changes a limit, for example --set images=64."""
    try:
        from everclip.serve import Limits, Service, create_app
        from everclip.serve.guard import LOOPBACK, host_name
        from everclip.serve.server import Server
    except ModuleNotFoundError as error:
        raise InputError(
            f"serve needs {error.name}, which is not installed; get it by pip install 'everclip[serve]'."
        ) from error
    from everclip.experiment.config import check_names, validated
    from everclip.learner import Learner, LearnerDirectory

    if token is not None and (not token.strip() or not token.isascii()):
        raise InputError("the token is empty or not plain ASCII; give another one by --token or EVERCLIP_TOKEN.")
    address, beyond = _address(host)
    if beyond and token is None and not open_to_all:
        raise InputError(
            f"--host {host} can be reached from other machines, and there is no token: whoever reaches it could teach "
            "it and let it forget; give a --token, or --open if that is what you want."
        )
    hosts = {*LOOPBACK, *map(host_name, allow_host or ())} | (set() if _everywhere(address) else {host})
    values = given({}, settings or [])
    check_names(values, [Limits], "the service")
    limits = validated(Limits, values)
    directory = LearnerDirectory(model_dir)
    display = Display()
    if not directory.exists():
        directory.refuse_foreign_files()
        directory.require_writable()
        Learner.create(device=device or "auto").save(model_dir, replace=False)
        display.note(f"{model_dir}: a new learner, which knows nothing yet.")
    with Service(model_dir, limits, device or "auto") as service:
        try:
            bound = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        except OSError as error:
            raise InputError(
                f"can't listen on {host}:{port} ({error.strerror}); choose another --port or --host."
            ) from error
        with bound:
            if not service.learns:
                display.note(f"{model_dir} is read-only: the service answers, and learns nothing.")
            shown = f"[{host}]" if ":" in host else host
            display.note(f"EverCLIP answers at http://{shown}:{bound.getsockname()[1]}; Ctrl-C ends it.")
            if beyond and token is None:
                display.note("There is no token: whoever reaches this address can teach it and let it forget.")
            display.note(f"Requests for answers take {service.memory / 1e9:.1f} GB at most, beside the model.")
            Server(create_app(service, token, hosts), limits.stalled).serve_on(bound)


def _address(host: str) -> tuple[str, bool]:
    """The address that a name stands for, and whether other machines can reach it.

    Raises:
        InputError: there is no such name.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no such name"
        raise InputError(f"can't listen on '{host}' ({reason}); choose another --host.") from error
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    address = str(found[0][4][0])
    return address, not ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _everywhere(address: str) -> bool:
    """Whether it stands for every address of this machine, and is none by itself."""
    return ipaddress.ip_address(address.partition("%")[0]).is_unspecified
