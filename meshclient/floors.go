package meshclient

import "time"

// floorsEvery is how long what rose is held before it is written down, with
// whatever else rises meanwhile.
const floorsEvery = time.Second

// keepFloors writes down, behind the messages, below which epochs this client does
// not go back.
func (m *Mesh) keepFloors() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.floors.Rose():
		}
		select {
		case <-m.ctx.Done():
			return // Close writes
		case <-time.After(floorsEvery):
		}
		m.writeFloors()
	}
}

// writeFloors writes what is news. What cannot be written is tried again with the
// next news, and at the end.
func (m *Mesh) writeFloors() {
	if !m.floors.News() {
		return
	}
	if err := m.dir.KeepFloors(m.floors); err != nil {
		m.floors.Unwritten()
		m.log.Error().Err(err).Msg("epochs that were seen could not be kept on disk")
	}
}
