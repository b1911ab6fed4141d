"""The configuration of nginx: a tuned proxy_cache that stores in memory, as its own documentation would have it."""

import getpass
import os
from pathlib import Path
from typing import Final

# What the line of a hit says in Readthrough, but for the reason, which nginx does not know.
LOG_FORMAT: Final = """
    log_format json escape=json '{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method",'
        '"host":"$host","target":"$request_uri","route":"$server_name","status":$status,'
        '"cache":"$upstream_cache_status","duration_s":$request_time,"bytes":$bytes_sent}';
"""

TEMPLATE: Final = """
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{
    worker_connections 4096;
    use epoll;
    multi_accept on;
}}
http {{
    {log_format}
    access_log {access_log};
    default_type application/json;
    sendfile on;
    tcp_nopush off;  # on, over loopback, every 64 KiB wait 40 ms for an acknowledgement that is delayed
    tcp_nodelay on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    reset_timedout_connection on;
    server_tokens off;
    open_file_cache max=12000 inactive=1h;
    open_file_cache_valid 1h;
    open_file_cache_min_uses 1;
    client_body_temp_path {directory}/client;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_temp_path {directory}/proxy;
    proxy_cache_path {directory}/cache levels=1:2 keys_zone=bench:100m inactive=1h max_size={max_size}
                     use_temp_path=off;
    upstream api {{
        server 127.0.0.1:{upstream};
        keepalive 64;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        server_name bench;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        # What Readthrough tells its upstream, too.
        proxy_set_header Host $proxy_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-Proto $scheme;
        # Readthrough says what it did in every answer; so does nginx.
        add_header X-Cache-Status $upstream_cache_status always;
        location / {{
            proxy_pass http://api;
            proxy_cache bench;
            proxy_cache_key $scheme$http_host$request_uri;
            proxy_cache_lock on;
            proxy_cache_use_stale updating error timeout;
            proxy_cache_background_update on;
            proxy_cache_revalidate on;
        }}
        # Never stored, so not even looked up: with proxy_cache_lock, requests for one URL that
        # cannot be stored would wait for each other, half a second at a time.
        location /nostore/ {{
            proxy_pass http://api;
        }}
    }}
}}
"""


def configuration(directory: Path, port: int, upstream: int, *, log: Path | None, max_size: str) -> str:
    """The file's text. `log` is where the access log goes, None for nowhere."""
    return TEMPLATE.format(
        # As root, nginx would give its worker to a user who cannot write here.
        user=f"user {getpass.getuser()};" if os.geteuid() == 0 else "",
        directory=directory,
        port=port,
        upstream=upstream,
        log_format=LOG_FORMAT if log else "",
        access_log=f"{log} json buffer=64k flush=1s" if log else "off",
        max_size=max_size,
    )
