"""The same lake on a local server that speaks S3."""

from collections.abc import Iterator

import pandas as pd
import pytest

import mlkit
from mlkit.config import Settings
from mlkit.errors import BarsError, LakeError
from mlkit.market.lake.store import BarStore
from mlkit.market.simulate.markets import null_market

pytest.importorskip("s3fs")
pytest.importorskip("moto")
HOURS = null_market(24 * 70, seed=3, timeframe="1h", symbol="BTC/USDT")
MARKET = ("BTC/USDT", "1h")

pytestmark = pytest.mark.filterwarnings("ignore")  # of botocore, moto and their server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("NO_PROXY", host)
        boto3.client("s3").create_bucket(Bucket="lake")
        yield "s3://lake"
    server.stop()


def test_the_store_does_on_s3_what_it_does_in_a_folder(bucket: str) -> None:
    store = BarStore(f"{bucket}/first/bars")
    assert store.markets() == [] and store.last(*MARKET) is None
    store.append(HOURS.iloc[:1000])
    again = store.append(HOURS.iloc[900:])
    assert (again.added, again.known) == (len(HOURS) - 1000, 100)
    with pytest.raises(BarsError, match="other values"):
        store.append(HOURS.iloc[:5] * 2)
    pd.testing.assert_frame_equal(store.read(*MARKET), HOURS)
    assert store.markets() == [MARKET] and store.last(*MARKET) == HOURS.index[-1]
    assert store.append(HOURS.iloc[5:6] * 2, on_conflict="replace").revised == 1
    store.replace(HOURS.iloc[:300])
    pd.testing.assert_frame_equal(store.read(*MARKET), HOURS.iloc[:300])

    import s3fs

    files = s3fs.S3FileSystem(use_listings_cache=False).find("lake/first")
    assert [name.rsplit("/", 1)[1] for name in files] == ["2024-01.parquet", "_manifest.json"]


def test_a_setting_puts_the_lake_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLKIT_TRAINING_DATA_PATH", f"{bucket}/second")
    settings = Settings()
    assert settings.lake == f"{bucket}/second"
    assert mlkit.save_bars(HOURS).folder.startswith("s3://lake/second/symbol=BTC%2FUSDT")
    pd.testing.assert_frame_equal(mlkit.load_bars(*MARKET), HOURS)
    assert mlkit.data_status().loc[MARKET, "bars"] == len(HOURS)


def test_damage_and_a_bucket_that_is_not_there_are_told(bucket: str) -> None:
    import s3fs

    store = BarStore(f"{bucket}/third")
    store.append(HOURS)
    files = s3fs.S3FileSystem(use_listings_cache=False)
    name = next(name for name in files.find("lake/third") if name.endswith("2024-02.parquet"))
    files.pipe_file(name, files.cat_file(name)[:-1])
    with pytest.raises(LakeError, match=r"2024-02.parquet is damaged"):
        store.read(*MARKET)
    with pytest.raises(LakeError, match=r"cannot write .* are kept"):
        BarStore("s3://no-such-bucket/bars").append(HOURS)
