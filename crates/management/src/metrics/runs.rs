//! What messages that do not fit in memory take of the disk.

use super::MetricsPage;
use crate::app::App;

impl MetricsPage {
    pub(super) fn runs(&mut self, app: &App) {
        let runs = app.broker.runs_stats();
        self.gauge(
            "run_files",
            "Files with messages that do not fit in memory",
            runs.files,
        );
        self.gauge(
            "run_bytes",
            "Bytes in them that are needed",
            runs.live_bytes,
        );
        self.counter(
            "run_written_bytes_total",
            "Total number of bytes written to run files",
            runs.written_bytes,
        );
        self.counter(
            "run_read_bytes_total",
            "Total number of bytes read back from run files",
            runs.read_bytes,
        );
        self.counter(
            "run_write_errors_total",
            "Total number of writes to run files that failed, for want of space included",
            runs.write_errors,
        );
        self.counter(
            "run_read_errors_total",
            "Total number of chunks that could not be read back from run files",
            runs.read_errors,
        );
        self.scrub(app);
    }

    fn scrub(&mut self, app: &App) {
        let scrub = app.broker.scrub_stats();
        self.counter(
            "run_scrubbed_bytes_total",
            "Total number of bytes of run files that were read to see whether they are well",
            scrub.bytes,
        );
        self.counter(
            "run_scrub_passes_total",
            "Total number of times that all run files were",
            scrub.passes,
        );
        self.gauge(
            "run_scrub_last_pass_timestamp_seconds",
            "When that had ended last, unix time; 0 before the first time",
            scrub.ended_ms.unwrap_or(0) / 1000,
        );
    }
}
