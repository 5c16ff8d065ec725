"""What a service refuses: slow or large requests, those without the token. ASGI middleware, and the
protocol of uvicorn with limits for the head of a request.
"""
import asyncio
import hmac
import time

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 2 ** 16  # bytes of a request's first line and headers


class Protocol(HttpToolsProtocol):
    """uvicorn's, with a limit in bytes and in seconds for the head of a request, which uvicorn lets
    arrive as slowly as it likes. max_secs: set by `run_server`."""
    max_secs = 15.0

    def connection_made(self, transport):
        super().connection_made(transport)
        self.timer = None
        self.n_head = 0  # bytes of the head so far; None: no head is expected
        self.message_complete = True  # whether the last request has arrived to its end
        self.start_timer()

    def start_timer(self):
        if self.timer is None:
            self.timer = self.loop.call_later(self.max_secs, self.transport.close)

    def stop_timer(self):
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def data_received(self, data):
        if self.n_head is not None:
            self.start_timer()
            self.n_head += len(data)
        super().data_received(data)
        if self.n_head is not None and self.n_head > MAX_HEAD:
            self.refuse_head()

    def on_headers_complete(self):
        self.stop_timer()
        self.n_head = None
        self.message_complete = False
        # a line has a colon, a space and two characters at its end
        n_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if n_bytes > MAX_HEAD:
            self.refuse_head()
            raise ValueError('the head is too large')  # which ends the parser
        super().on_headers_complete()

    def refuse_head(self):
        if not self.transport.is_closing():
            self.transport.write(b'HTTP/1.1 431 Request Header Fields Too Large\r\n'
                                 b'connection: close\r\ncontent-length: 0\r\n\r\n')
            self.transport.close()

    def send_400_response(self, message):
        if not self.transport.is_closing():
            super().send_400_response(message)

    def on_message_complete(self):
        super().on_message_complete()
        self.message_complete = True
        if not self.cycle.response_complete:
            self.stop_timer()
        self.expect_next()

    def on_response_complete(self):
        if not self.message_complete:  # it was refused before its body had arrived
            self.start_timer()
        self.expect_next()
        super().on_response_complete()

    def expect_next(self):
        """Expect a head if the last request has arrived and is answered."""
        if self.message_complete and self.cycle.response_complete:
            self.n_head = 0

    def connection_lost(self, error):
        self.stop_timer()
        super().connection_lost(error)


class BodyLimit:
    """ASGI: a 413 for a body that is, or turns out to be, too large, before it is read; a 408 if
    it has not arrived after max_secs."""

    def __init__(self, app, max_bytes, max_secs):
        self.app = app
        self.max_bytes = max_bytes
        self.max_secs = max_secs

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get('headers', ()))
        announced = headers.get(b'content-length', b'0')
        refusal = f'the body is larger than {self.max_bytes} bytes'
        if announced.isdigit() and int(announced) > self.max_bytes:
            reply = JSONResponse({'detail': refusal}, 413)
            await reply(scope, receive, send)
            return

        received = 0
        complete = False
        deadline = time.monotonic() + self.max_secs

        async def receive_limited():
            nonlocal received, complete
            if complete:  # only the end of the connection is still to come
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise HTTPException(408, 'the rest of the body did not arrive') from None
            received += len(message.get('body', b''))
            complete = not message.get('more_body', False)
            if received > self.max_bytes:
                raise HTTPException(413, refusal)
            return message

        await self.app(scope, receive_limited, send)


class TokenCheck:
    """ASGI: a 401 for those who do not send the token, a 400 for those who send two. open_paths
    need none."""

    def __init__(self, app, token, open_paths):
        self.app = app
        self.token = token
        self.open_paths = open_paths

    async def __call__(self, scope, receive, send):
        if scope['type'] == 'http' and scope['path'] not in self.open_paths:
            sent = [value for name, value in scope['headers'] if name == b'authorization']
            scheme, _, found = (sent[0] if sent else b'').partition(b' ')
            reply = None
            if len(sent) > 1:
                reply = JSONResponse({'detail': 'more than one Authorization header'}, 400)
            # compared in a time that does not tell where they differ
            elif not hmac.compare_digest(found.strip(), self.token) or scheme.lower() != b'bearer':
                reply = JSONResponse({'detail': 'send the token, Authorization: Bearer ...'}, 401,
                                     {'WWW-Authenticate': 'Bearer'})
            if reply:
                await reply(scope, receive, send)
                return
        await self.app(scope, receive, send)
