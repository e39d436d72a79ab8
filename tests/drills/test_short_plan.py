"""A short plan of faults under load, each server lost too, judged as `make drills` judges its long ones."""

from pathlib import Path

from deploy.local.stack import LocalStack, migrate
from tests.drills.drill import Drill
from tests.drills.history import History
from tests.drills.plan import Plan, Step
from tests.drills.scene import TEMPLATE, Scene

PLAN = Plan(
    seed=None,
    seconds=40.0,
    steps=(
        Step(0.5, "ingestor.committed_kill", 0.3),
        Step(1.0, "postgresql.commit_reply_lost", 1.5),
        Step(3.5, "rollup_worker.kill", 0.3),
        Step(4.0, "rabbitmq.reset_peer", 0.1),
        Step(4.5, "postgresql.kill_backends", 1.0),
        Step(6.5, "export_worker.kill", 0.3),
        Step(7.0, "s3.limit_data", 0.5),
        Step(8.5, "gateway.kill", 0.3),
        Step(9.0, "ingestor-2.term", 0.3),
        Step(9.5, "redis.corrupt", 3.0),
        Step(10.0, "rabbitmq.half_open", 1.0),
        Step(11.0, "gateway.worker_kill", 0.5),
        Step(11.5, "postgresql.half_open", 1.0),
        Step(15.0, "redis.kill", 1.0),
        Step(15.5, "s3.kill", 2.0),
        Step(19.0, "postgresql.kill", 1.0),
        Step(24.0, "rabbitmq.pause", 3.0),
        Step(28.0, "postgresql.pause", 3.0),
        Step(32.0, "rabbitmq.kill", 1.0),
    ),
)


def test_a_short_plan_of_faults_breaks_no_promise(own_stack: LocalStack, tmp_path: Path) -> None:
    migrate(own_stack.create_database(TEMPLATE))
    own_stack.make_template(TEMPLATE)
    lines: list[str] = []
    with Scene(own_stack, tmp_path, "short") as scene:
        history = History(tmp_path / "history.jsonl")
        drill = Drill(scene, history, lines.append)
        drill.load.start()
        try:
            outcome = drill.run_plan(PLAN, "short plan")
        finally:
            drill.load.stop()
            history.close()
    assert outcome.findings == [], "\n".join(lines)
    assert not [line for line in lines if "ended by itself" in line], "whoever loses a server waits for it"
    # These take a request that comes at the right moment.
    by_chance = {"s3.limit_data", "redis.corrupt", "ingestor.committed_kill"}
    assert drill.struck.keys() >= {step.fault for step in PLAN.steps} - by_chance
    assert drill.verdict.counted >= drill.verdict.acknowledged > 100
    assert drill.verdict.exports > 3
    assert drill.verdict.answers > 10
