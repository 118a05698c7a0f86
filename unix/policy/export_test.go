package policy

// Buckets is how many rates are kept.
func (p *Policy) Buckets() int {
	p.buckets.mu.Lock()
	defer p.buckets.mu.Unlock()
	return len(p.buckets.by)
}
