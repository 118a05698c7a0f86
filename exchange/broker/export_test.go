package broker

// Standing counts the exchanges that want their user's turn now.
func (b *Broker) Standing() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.running {
		n += count(r.phase == waiting)
	}
	return n
}
