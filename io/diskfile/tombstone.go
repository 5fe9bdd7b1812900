package diskfile

import "imping/swift/timestamp"

// WriteMeta leaves a .meta file beside the data of an object, whose user metadata it
// replaces: meta holds X-Timestamp and all that is to be kept, and with
// Content-Type-Timestamp a content type of that time. Errors as Create's and Publish's.
// Swift: BaseDiskFile.write_metadata.
func (m *Manager) WriteMeta(p Place, meta *Metadata) error {
	return m.writeSmall(p, ".meta", meta)
}

// Delete leaves a tombstone of that time, which makes everything obsolete that is not
// newer. Errors as Create's and Publish's. Swift: BaseDiskFile.delete.
func (m *Manager) Delete(p Place, at timestamp.Timestamp) error {
	meta := &Metadata{}
	meta.Set("X-Timestamp", at.Internal())
	return m.writeSmall(p, ".ts", meta)
}

func (m *Manager) writeSmall(p Place, ext string, meta *Metadata) error {
	w, err := m.create(p, ext, -1)
	if err != nil {
		return err
	}
	return w.Publish(meta)
}
