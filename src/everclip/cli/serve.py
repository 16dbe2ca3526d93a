"""The command `serve`."""

from __future__ import annotations

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
    device: DeviceOption = None,
    settings: Setting = None,
) -> None:
    """Answer and learn over HTTP, and serve a page for it; --set changes a limit, for example --set images=64."""
    try:
        import uvicorn

        from everclip.serve import Limits, Service, create_app
    except ModuleNotFoundError as error:
        raise InputError(
            f"serve needs {error.name}, which is not installed; get it by pip install 'everclip[serve]'."
        ) from error
    from everclip.experiment.config import check_names, validated
    from everclip.learner import Learner, LearnerDirectory

    if token is not None and (not token.strip() or not token.isascii()):
        raise InputError("the token is empty or not plain ASCII; give another one by --token or EVERCLIP_TOKEN.")
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
            bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise InputError(
                f"can't listen on {host}:{port} ({error.strerror}); choose another --port or --host."
            ) from error
        with bound:
            if not service.learns:
                display.note(f"{model_dir} is read-only: the service answers, and learns nothing.")
            shown = f"[{host}]" if ":" in host else host
            display.note(f"EverCLIP answers at http://{shown}:{bound.getsockname()[1]}; Ctrl-C ends it.")
            uvicorn.Server(uvicorn.Config(create_app(service, token), log_level="warning")).run(sockets=[bound])
