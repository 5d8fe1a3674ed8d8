//! Flows that a rule drops: dropped by the device that they come by, else by the driver.

use super::{Counts, Gate, Record, Table, What};
use crate::io::steer::{EntryId, FlowVerdict, SteerError};
use crate::offload::lane::Back;
use crate::offload::nic::Blocked;
use crate::offload::reason::Reason;

impl Gate {
    /// Has a device or the driver drop a proposed flow, and tells its worker.
    pub(in crate::offload) fn block(&self, worker: usize, blocked: &Blocked) {
        let mut table = self.table();
        if table.records.contains_key(&(worker, blocked.flow.idx.0)) {
            return;
        }
        let placed = if self.is_current(&table, blocked.generation) {
            match table.nics.place(worker, blocked) {
                Ok(()) => {
                    self.tell(worker, blocked.flow, What::Blocked);
                    return;
                }
                Err(nic) => self.drop_in_driver(&mut table, worker, blocked, nic),
            }
        } else {
            Err(Reason::Changing)
        };
        // Without the note the flow is proposed again.
        if let Err(reason) = placed {
            self.tell(worker, blocked.flow, What::Refused(reason));
        }
    }

    /// One entry, for the direction that was dropped: of the other nothing is known, and a worker drops what comes of it.
    fn drop_in_driver(&self, table: &mut Table, worker: usize, blocked: &Blocked, nic: Reason) -> Result<(), Reason> {
        if self.interfaces.get(usize::from(blocked.port)).is_none_or(|index| *index == 0) {
            return Err(Reason::NotXdp);
        }
        let insert = self.steering.ask_mut(|steer| steer.flow_insert(&blocked.key, FlowVerdict::Drop));
        let entry: EntryId = insert.ok_or(Reason::Stopping)?.map_err(|error| match error {
            SteerError::Flow(_) => Reason::TableFull,
            error => {
                tracing::warn!("the driver's flow table: {error}");
                Reason::Driver
            }
        })?;
        let mut entries = [None; 2];
        entries[blocked.direction.index()] = Some(entry);
        let record = Record {
            worker,
            flow: blocked.flow,
            entries,
            pending: Counts::default(),
            arrival: What::Dropped(nic),
            placed: false,
            queued: false,
            every: 0,
            met: [(0, 0); 2],
            metered: false,
            back: Back::default(),
            silent: 0,
            ways: Vec::new(),
        };
        self.keep(table, record);
        Ok(())
    }
}
