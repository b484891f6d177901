from pathlib import Path

from common.wire import pack
from server.rounds.ask import Weights
from server.rounds.errands import Round, errands_of
from tests.support.hospitals import STATE, LocalHospitals, instruction_of, plan_of
from tests.support.shards import make_hospitals


def test_hospitals_that_lack_the_same_part_share_its_bytes_whenever_they_counted(
    tmp_path: Path,
) -> None:
    shards = make_hospitals(tmp_path / "data", 4)
    connections = LocalHospitals(shards, 5, {}).present()
    counted = dict(zip(connections, (1, 2, 3, 3), strict=True))
    for name, connection in list(connections.items())[:3]:
        connection.own = {counted[name]}
    plan = plan_of(shared="no-batchnorm")
    whole = Weights(pack(STATE))
    out = Round(instruction_of(plan, 4), STATE, whole, None, 0.0, {}, counted=counted)
    errands = list(errands_of(out, connections).values())
    assert [each.instruction.counted for each in errands] == [1, 2, 3, 3]
    assert [each.instruction.weights for each in errands] == [*["no-batchnorm"] * 3, "all"]
    assert len({id(each.weights) for each in errands[:3]}) == 1
    assert errands[3].weights is whole
