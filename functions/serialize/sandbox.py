"""Serialize in a subprocess, so that a malicious file can crash or stall only its own decoder."""

import multiprocessing
import resource
import signal
import traceback
import warnings
from contextlib import closing
from multiprocessing.connection import Connection
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from functions.serialize.photo import RejectedError, SerializedPhoto, detect_format, serialize
else:  # in Lambda, this folder is the root of all imports
    from photo import RejectedError, SerializedPhoto, detect_format, serialize

DECODING_SECONDS = 15
"""Time limit for decoding on the third of a processor that comes with 512 MB (AWS Lambda Developer Guide,
"Configure Lambda function memory"): several times what 50 megapixels take."""

FORK = multiprocessing.get_context("fork")  # in milliseconds; a spawned process would import everything

CRASH_SIGNALS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
"""The signals of a fault in a process's own code (signal(7))."""


class DecodingStoppedError(Exception):
    """Decoding was killed from outside, not because of the photo; the state machine retries it."""


def serialize_in_subprocess(file: IO[bytes], box: int, log_keys: dict[str, Any]) -> SerializedPhoto:
    """Call `serialize` in a subprocess with a time limit.

    Raises `RejectedError` if `serialize` does, the decoder crashes (``damaged``) or it takes longer than
    DECODING_SECONDS (``too_many_pixels``), and `DecodingStoppedError` if the process ends in any other way.
    """
    if detect_format(file) == "HEIC":
        # Load it in this process, so that it stays for later photos: loading takes longer than most decoding.
        import pillow_heif  # noqa: F401, PLC0415
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_send_serialized, args=(sender, file, box))
    with closing(receiver), warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        # Python warns about forking when there are other threads; decoders need no lock that one could hold.
        process.start()
        sender.close()
        try:
            if not receiver.poll(DECODING_SECONDS):
                raise _error_for_exit_code(-signal.SIGXCPU, log_keys)
            result: SerializedPhoto | Exception
            result, child_log_keys = receiver.recv()
        except EOFError as error:
            process.join()
            raise _error_for_exit_code(process.exitcode, log_keys) from error
        finally:
            process.kill()
            process.join()
    log_keys |= child_log_keys
    if isinstance(result, Exception):
        raise result
    return result


def _send_serialized(sender: Connection, file: IO[bytes], box: int) -> None:
    # If the function itself is killed, nothing else ends this process.
    resource.setrlimit(resource.RLIMIT_CPU, (2 * DECODING_SECONDS, resource.RLIM_INFINITY))
    log_keys: dict[str, Any] = {}
    result: SerializedPhoto | Exception
    try:
        result = serialize(file, box, log_keys)
    except Exception as error:  # noqa: BLE001 - the parent process raises it again
        error.add_note(traceback.format_exc())
        if error.__cause__:
            log_keys["cause"] = type(error.__cause__).__name__
        result = error
    sender.send((result, log_keys))


def _error_for_exit_code(exit_code: int | None, log_keys: dict[str, Any]) -> Exception:
    if exit_code == -signal.SIGXCPU:
        return RejectedError("too_many_pixels", f"The file takes longer than {DECODING_SECONDS} s to decode.")
    if exit_code is not None and -exit_code in CRASH_SIGNALS:
        log_keys["cause"] = signal.Signals(-exit_code).name
        return RejectedError("damaged", "The file is corrupt: its decoder crashes.")
    return DecodingStoppedError(f"the decoding process ended with exit code {exit_code}")
