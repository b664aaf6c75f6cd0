"""A gRPC server and client, of an implementation that is not ours.

serve PORT            answers on loopback until it is ended
talk ADDRESS NAME CA  unary, both streaming kinds, trailers and an error status
"""
import queue
import sys
from concurrent import futures

import grpc


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        name = call.method.rsplit("/", 1)[-1]
        if name == "Unary":
            return grpc.unary_unary_rpc_method_handler(self.unary)
        if name == "Down":
            return grpc.unary_stream_rpc_method_handler(self.down)
        if name == "Both":
            return grpc.stream_stream_rpc_method_handler(self.both)
        if name == "Fail":
            return grpc.unary_unary_rpc_method_handler(self.fail)
        return None

    def unary(self, request, context):
        context.set_trailing_metadata((("answered-by", "node"),))
        return request[::-1]

    def down(self, request, context):
        for number in range(100):
            yield bytes([number]) * 1000

    def both(self, requests, context):
        for request in requests:
            yield request.upper()

    def fail(self, request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Handler(),))
    assert server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def talk(address, name, ca):
    credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
    options = (
        ("grpc.enable_http_proxy", 0),
        ("grpc.default_authority", name),
        ("grpc.ssl_target_name_override", name.split(":")[0]),
    )
    with grpc.secure_channel(address, credentials, options) as channel:
        unary = channel.unary_unary("/test.Peer/Unary")
        answer, call = unary.with_call(b"abc", timeout=20)
        assert answer == b"cba"
        assert ("answered-by", "node") in [(k, v) for k, v in call.trailing_metadata()], call.trailing_metadata()
        big = bytes(3_000_000)
        assert len(unary(big, timeout=20)) == len(big)

        down = list(channel.unary_stream("/test.Peer/Down")(b"", timeout=20))
        assert len(down) == 100 and down[7] == bytes([7]) * 1000

        # Each answer is awaited before the next message is sent: nothing may be held back.
        sent = queue.Queue()
        answers = channel.stream_stream("/test.Peer/Both")(iter(sent.get, None), timeout=20)
        for word in (b"one", b"two", b"three"):
            sent.put(word)
            assert next(answers) == word.upper()
        sent.put(None)
        assert list(answers) == []

        try:
            channel.unary_unary("/test.Peer/Fail")(b"", timeout=20)
            raise SystemExit("no error")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
            assert error.details() == "not today"
    print("well")


verb, *rest = sys.argv[1:]
serve(int(rest[0])) if verb == "serve" else talk(*rest)
