"""An nginx of one host: HTTPS with HTTP/1.1 and HTTP/2 on 443, plain HTTP on 80."""

import random
from pathlib import Path

from scenario import Server
from testbed import Testbed

CONF = """
daemon off; worker_processes 1; pid {work}/nginx.pid; error_log {work}/error.log;
user root;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_timeout {keepalive_s}; server_tokens {tokens};
  sendfile {sendfile}; tcp_nopush {sendfile}; client_max_body_size 50m;
  types {{ text/html html; application/vnd.apple.mpegurl m3u8; video/mp2t ts;
    application/dash+xml mpd; video/mp4 m4s mp4; image/jpeg jpg; application/json json; }}
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  gzip {gzip}; gzip_types text/html application/json; root {root};
  ssl_certificate {tls}/s{index}.pem; ssl_certificate_key {tls}/s{index}.key;
  ssl_protocols {protocols}; ssl_session_cache shared:ssl:1m; ssl_buffer_size {buffer};
  http2_chunk_size {buffer};
  server {{
    listen 443 ssl http2; listen [::]:443 ssl http2; listen 80; listen [::]:80;
    location /up/ {{ root {work}; dav_methods PUT; create_full_put_path on; }}
    location = /form {{ return 204; }}
  }}
}}
"""


def serve_nginx(testbed: Testbed, server: Server, work: Path, root: Path, tls: Path) -> None:
    """Start the host's nginx over the files of `root`."""
    rng = random.Random(f"{testbed.seed}/nginx/{server.index}")
    conf = work / "nginx.conf"
    conf.write_text(
        CONF.format(
            work=work,
            root=root,
            tls=tls,
            index=server.index,
            keepalive_s=rng.choice((5, 15, 65)),
            tokens=rng.choice(("on", "off")),
            gzip=rng.choice(("on", "off")),
            sendfile=rng.choice(("on", "off")),
            buffer=rng.choice(("4k", "8k", "16k")),
            protocols="TLSv1.2" if server.tls12_only else "TLSv1.2 TLSv1.3",
        )
    )
    testbed.start(server, ["nginx", "-p", str(work), "-c", str(conf)], log=work / "nginx.txt")
