"""What a server may send, and how long it may take: more than a real one ever does."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """The bounds of a job on a server. How long the job itself may take is not among them.

    Attributes:
        connect_seconds: How long opening a connection may take.
        answer_seconds: How long an answer may take, and a transfer may stand still.
        slowest: Bytes per second; so much longer a request may take as it carries more.
        close_seconds: How long the server's part in closing a WebSocket is waited for.
        answer_bytes: The size of a JSON answer.
        answer_values: The values in it: small ones take far more memory than their text.
        message_bytes: The size of a WebSocket message.
        file_bytes: The size of an output file.
        files: The output files of a job.
        namesakes: The files of one name in the output folder, with numbers added.
        text_length: The characters that are shown of a text; the rest is left out.
        texts: The last texts that are kept for the result.
        quiet_seconds: After this long without news the server is asked for the state of the job; after twice as long
            the next time.
        quietest_seconds: What that grows to.
        lost_seconds: After this long without news, and without an answer about the job, the server is given up.
        pauses: Seconds before each attempt to connect again; after the last one the server is given up.
        steady_seconds: A connection that held for so long, and brought a message, has the attempts counted anew.
    """

    connect_seconds: float = 10.0
    answer_seconds: float = 60.0
    slowest: int = 32 * 1024
    close_seconds: float = 5.0
    answer_bytes: int = 24 * MEBIBYTE
    answer_values: int = 1_000_000
    message_bytes: int = 16 * MEBIBYTE
    file_bytes: int = 2048 * MEBIBYTE
    files: int = 10_000
    namesakes: int = 1000
    text_length: int = 4000
    texts: int = 1000
    quiet_seconds: float = 5.0
    quietest_seconds: float = 40.0
    lost_seconds: float = 300.0
    pauses: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 24.0)
    steady_seconds: float = 10.0


LIMITS = Limits()
"""Those that hold where none are given."""
