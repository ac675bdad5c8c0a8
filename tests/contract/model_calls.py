"""What a service answers with, and by which version."""

import httpx


def answers(client: httpx.Client, body: bytes, model: str | None = None) -> str:
    answer = client.post("/v1/classify", params={"model": model} if model else {}, content=body)
    return f"{answer.json()['model']['name']}:{answer.json()['model']['version']}" if answer.is_success else str(answer.json()["code"])
