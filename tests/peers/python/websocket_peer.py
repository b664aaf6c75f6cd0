"""A WebSocket server and its client, of an implementation that is not ours.

serve PORT   answers on loopback until it is ended
talk URL CA  plays through echo, large messages, ping and close codes
talk2 HOST PORT PATH CA  the same echo over HTTP/2 (RFC 8441)
"""
import asyncio
import hashlib
import os
import socket
import ssl
import sys


async def serve(port):
    import websockets

    async def echo(socket):
        async for message in socket:
            if message == "close please":
                await socket.close(4321, "as asked")
                return
            await socket.send(message)

    async with websockets.serve(echo, "127.0.0.1", port, max_size=64 << 20):
        await asyncio.Future()


async def talk(url, ca):
    import websockets

    trust = ssl.create_default_context(cafile=ca)
    async with websockets.connect(url, ssl=trust, max_size=64 << 20, proxy=None) as client:
        await client.send("hello")
        assert await client.recv() == "hello"

        large = os.urandom(16 << 20)
        await client.send(large)
        back = await client.recv()
        assert hashlib.sha256(back).digest() == hashlib.sha256(large).digest()

        pong = await client.ping()
        await asyncio.wait_for(pong, 20)

        await client.send("close please")
        try:
            await client.recv()
            raise SystemExit("the server did not close")
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd.code == 4321, closed.rcvd
            assert closed.rcvd.reason == "as asked", closed.rcvd

    async with websockets.connect(url, ssl=trust, proxy=None) as client:
        await client.close(4001, "mine")
        assert client.close_code == 4001
    print("well")


def talk2(host, port, path, ca):
    import h2.config
    import h2.connection
    import h2.events
    import wsproto.connection as ws
    import wsproto.events as events

    trust = ssl.create_default_context(cafile=ca)
    trust.set_alpn_protocols(["h2"])
    raw = socket.create_connection((host, int(port)), timeout=20)
    tls = trust.wrap_socket(raw, server_hostname=host)
    assert tls.selected_alpn_protocol() == "h2"
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http.initiate_connection()
    tls.sendall(http.data_to_send())

    def pump():
        data = tls.recv(65536)
        if not data:
            raise SystemExit("the connection ended")
        found = http.receive_data(data)
        tls.sendall(http.data_to_send())
        return found

    while not http.remote_settings.enable_connect_protocol:
        pump()
    stream = http.get_next_available_stream_id()
    http.send_headers(stream, [
        (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"),
        (":path", path), (":authority", f"{host}:{port}"), ("sec-websocket-version", "13"),
    ])
    tls.sendall(http.data_to_send())
    socket_side = ws.Connection(ws.ConnectionType.CLIENT)
    status, said = None, b""
    sent = os.urandom(200_000)
    while said != sent:
        for event in pump():
            if isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers).get(b":status") or dict(event.headers).get(":status")
                assert status in (b"200", "200"), event.headers
                data = socket_side.send(events.BytesMessage(data=sent))
                while data:
                    room = min(http.local_flow_control_window(stream), http.max_outbound_frame_size)
                    while room == 0:
                        pump()
                        room = min(http.local_flow_control_window(stream), http.max_outbound_frame_size)
                    http.send_data(stream, data[:room])
                    data = data[room:]
                    tls.sendall(http.data_to_send())
            elif isinstance(event, h2.events.DataReceived):
                http.acknowledge_received_data(event.flow_controlled_length, stream)
                socket_side.receive_data(event.data)
                for message in socket_side.events():
                    if isinstance(message, events.BytesMessage):
                        said += message.data
            elif isinstance(event, (h2.events.StreamReset, h2.events.StreamEnded)):
                raise SystemExit(f"ended early: {event} after {len(said)} bytes")
        tls.sendall(http.data_to_send())
    print("well")


verb, *rest = sys.argv[1:]
if verb == "serve":
    asyncio.run(serve(int(rest[0])))
elif verb == "talk":
    asyncio.run(talk(*rest))
else:
    talk2(*rest)
