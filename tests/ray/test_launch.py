from __future__ import annotations

import signal
import socket
import time

import httpx
import pytest

from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.serving.free_ports import free_ports
from tests.support.serve_command import serve_command, session_folders
from tests.support.served_app import write_config


def test_it_answers_a_sample_question_and_ctrl_c_leaves_nothing(tmp_path, tiny_checkpoint):
    (port,) = free_ports(1)
    config = write_config(tmp_path / "serve.yaml", tiny_checkpoint, http_port=port)
    folders = session_folders()
    with serve_command(config) as command:
        command.read_until("Ctrl-C stops the server.")
        assert f"http://127.0.0.1:{port}" in command.output
        assert "What is 17 + 25?" in command.output
        assert "open to other hosts" not in command.output
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 0
        assert command.processes() == []
    assert session_folders() == folders
    assert "Traceback" not in command.output


@pytest.mark.parametrize(
    ("after", "number"), [("checking the checkpoint", signal.SIGTERM), ("starting Ray", signal.SIGINT)]
)
def test_interrupted_while_it_starts_it_leaves_nothing(tmp_path, tiny_checkpoint, after, number):
    config = write_config(tmp_path / "serve.yaml", tiny_checkpoint)
    with serve_command(config) as command:
        command.read_until(f"✓ {after}")
        time.sleep(1.0)
        command.process.send_signal(number)
        assert command.wait() == 0
        assert command.processes() == []
    assert "Traceback" not in command.output


def test_a_taken_port_is_named_with_its_remedy(tmp_path, tiny_checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = write_config(tmp_path / "serve.yaml", tiny_checkpoint, grpc_port=port)
        with serve_command(config) as command:
            assert command.wait() == 1
    assert f"port {port}" in command.output
    assert "grpc_options.port" in command.output


def test_a_corrupt_checkpoint_is_refused_with_the_name_of_its_tensor(tmp_path):
    folder = tmp_path / "corrupt"
    write_checkpoint(folder, tiny_config(vocab_size=201_088))
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    name = b"model.layers.2.mlp.router.weight"
    assert name in content
    weights.write_bytes(content.replace(name, b"model.layers.2.mlp.router.wEIGHT"))
    with serve_command(write_config(tmp_path / "serve.yaml", folder)) as command:
        assert command.wait() == 1
    assert name.decode() in command.output
    assert "✓ starting Ray" not in command.output
    assert "Traceback" not in command.output


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_name(tmp_path, tiny_checkpoint):
    config = write_config(tmp_path / "serve.yaml", tiny_checkpoint)
    text = config.read_text().replace("max_context:", "max_contxt:")
    line = next(n for n, row in enumerate(text.splitlines(), 1) if "max_contxt" in row)
    config.write_text(text)
    with serve_command(config) as command:
        assert command.wait() == 1
    assert f"line {line}" in command.output
    assert "max_context" in command.output
