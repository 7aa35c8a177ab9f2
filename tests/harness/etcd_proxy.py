"""Between a service and etcd's JSON gateway: sees each request, and may hold it up or leave it unanswered."""
import http.client
import socket
import threading


class EtcdProxy:
    """`on_request(proxy, path, body)` runs in the connection's own thread; false: the request is dropped and its connection with it."""

    def __init__(self, port, on_request):
        self.port, self.on_request = port, on_request
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.open = []

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()
        for s in self.open:
            s.close()

    def ask(self, path, body):
        """A request of our own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            return connection.getresponse().read()
        finally:
            connection.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            server = socket.create_connection(("127.0.0.1", self.port))
            self.open += [client, server]
            threading.Thread(target=self._pump, args=(server, client), daemon=True).start()
            with client.makefile("rb") as stream:
                while self._forward(stream, server):
                    pass
        except OSError:
            pass
        finally:
            for s in (client, server):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _forward(self, stream, server):
        head, length = b"", 0
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return False
            head += line
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = stream.read(length)
        if not self.on_request(self, head.split(b" ")[1].decode(), body):
            return False
        server.sendall(head + body)
        return True

    @staticmethod
    def _pump(server, client):
        try:
            while data := server.recv(65536):
                client.sendall(data)
        except OSError:
            pass
        finally:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
