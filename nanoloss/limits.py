"""Limits of the service: refuse slow or large requests, and those without the token.

The head of a request is limited by a subclass of uvicorn's protocol, the rest by ASGI middleware.
"""
import asyncio
import hmac
import time

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 2 ** 16  # bytes of a request's first line and headers


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with a limit in bytes and in seconds for the head of a request, for which
    uvicorn itself waits as long as it takes. max_secs: set by tools/serve.py. A request's scope has
    `awaited`, a set: its futures are cancelled when the client leaves.

    A connection is in one of three states: a head is arriving (n_head is the number of its bytes,
    the timer runs), a body is arriving or an answer is computed (no timer), or the answer was sent
    before the body had arrived, which is then awaited no longer than a head (the timer runs)."""
    max_secs = 15.0

    def connection_made(self, transport):
        super().connection_made(transport)
        self.timer = None
        self.n_head = 0  # bytes of the head received so far; None: no head is expected
        self.message_complete = True  # whether the last request has arrived completely
        self.awaited = set()
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

    def on_message_begin(self):
        super().on_message_begin()
        self.scope['awaited'] = self.awaited

    def on_headers_complete(self):
        self.stop_timer()
        self.n_head = None
        self.message_complete = False
        # 4: a header line also has a colon, a space, CR and LF
        n_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if n_bytes > MAX_HEAD:
            self.refuse_head()
            raise ValueError('the head is too large')  # stops the parser
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
        self.stop_timer()
        if self.cycle.response_complete:  # uvicorn starts its own timer when it has answered
            self.timer = self.loop.call_later(self.timeout_keep_alive, self.transport.close)
        self.expect_next()

    def on_response_complete(self):
        if not self.message_complete:  # the request was refused before its body had arrived
            self.start_timer()
        self.expect_next()
        super().on_response_complete()

    def expect_next(self):
        """Expect a head if the last request has arrived and is answered."""
        if self.message_complete and self.cycle.response_complete:
            self.n_head = 0

    def connection_lost(self, error):
        self.stop_timer()
        for future in list(self.awaited):
            future.cancel()
        super().connection_lost(error)


class BodyLimit:
    """ASGI: a 413 for a body that is too large, before it is read if it announces its size, else as
    soon as the limit is passed; a 408 if it has not arrived within max_secs."""

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
            if complete:  # only http.disconnect is still to come
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
    """ASGI: a 401 for a request without the token, a 400 for one with two Authorization headers.
    open_paths need no token."""

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
            # compared in constant time, which does not reveal where they differ
            elif not hmac.compare_digest(found.strip(), self.token) or scheme.lower() != b'bearer':
                reply = JSONResponse({'detail': 'send the token, Authorization: Bearer ...'}, 401,
                                     {'WWW-Authenticate': 'Bearer'})
            if reply:
                await reply(scope, receive, send)
                return
        await self.app(scope, receive, send)
