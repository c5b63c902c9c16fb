"""Open Inference Protocol V2: the same predictions for the clients of Triton, KServe and MLServer.

words.py: the JSON and the binary tensors of a request. columns.py: a signature in tensors. rest.py: HTTP. door.py:
gRPC, which asks the same ASGI application; messages.py: its messages in the words of HTTP. `open_inference_pb2.py` is
made from the .proto beside it by grpcio-tools 1.74.0.
"""
