"""The loop can be watched, changed and stopped at every step."""

import torch

from dsd.model.pipeline import DSDPipelineOutput, Step
from dsd.model.request import DrawingOptions, Request
from tests.tiny import PROMPTS, draw, image, seeded


def request(steps: int, prompt: str | list[str] = PROMPTS[0], **inputs) -> Request:
    return Request(options=DrawingOptions(steps=steps), prompt=prompt, image=image(), **inputs)


def test_stream_gives_every_step_and_then_the_output(pipe):
    *steps, output = pipe.stream(request(3, generator=seeded(0)))
    assert [(step.index, step.total) for step in steps] == [(0, 3), (1, 3), (2, 3)]
    assert all(isinstance(step, Step) for step in steps) and isinstance(output, DSDPipelineOutput)
    assert (
        output.images[0]
        == pipe(PROMPTS[0], image=image(), num_inference_steps=3, generator=seeded(0)).images[0]
    )


def test_a_preview_is_the_target_frame_and_the_last_one_is_the_result(pipe):
    *steps, output = pipe.stream(request(2, PROMPTS, generator=seeded(0, 1)))
    previews = [step.preview() for step in steps]
    assert [len(images) for images in previews] == [2, 2] and previews[0][0].size == (32, 32)
    assert previews[0][0] != previews[1][0]


def test_the_last_preview_points_at_the_end(pipe):
    captured = []
    preview = pipe._preview
    pipe._preview = lambda tokens, size: captured.append(tokens) or preview(tokens, size)
    *steps, output = pipe.stream(request(2, output_type="latent", generator=seeded(0)))
    steps[-1].preview()
    del pipe._preview
    torch.testing.assert_close(captured[0], output.images, rtol=1e-4, atol=1e-4)


def test_closing_the_stream_stops_within_a_step(pipe, calls):
    steps = pipe.stream(request(50))
    next(steps)
    steps.close()
    assert sum(calls) == 1 and list(steps) == []


def test_interrupt_stops_within_a_step(pipe, calls):
    def stop(pipe, index, timestep, tensors):
        pipe._interrupt = index == 1
        return tensors

    output = pipe(PROMPTS[0], image=image(), num_inference_steps=50, callback_on_step_end=stop)
    assert sum(calls) == 2 and len(output.images) == 1
    assert sum(calls) == 2 and draw(pipe).isfinite().all()  # the next call is not interrupted


def test_a_callback_may_change_the_latents(pipe):
    def clear(pipe, index, timestep, tensors):
        return {"latents": tensors["latents"] * 0}

    assert draw(pipe, callback_on_step_end=clear).abs().max() == 0


def test_gradients_stay_as_the_caller_had_them(pipe):
    for _ in pipe.stream(request(2)):
        assert torch.is_grad_enabled()
    assert not draw(pipe).requires_grad
